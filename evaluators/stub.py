"""Models with nothing in them but a few modules of another: what a tuner needs to be injected, and no more."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn


class Stub(nn.Module):
    """Holds copies of single modules of a model on `meta`, under their full names. It computes nothing."""

    def __init__(self, model: Any, names: Iterable[tuple[str, str]]) -> None:
        """Copy modules, their tensors shared with the model.

        Args:
            model: Where the modules stand.
            names: Pairs of the name of a module in the model and its name here.
        """
        super().__init__()
        self.config: Any = {"model_type": model.config.model_type}
        for there, here in names:
            self._put(here, _copied(model.get_submodule(there)))

    def get_input_embeddings(self) -> None:
        """Return none: tuners ask for it to find tied weights."""
        return

    def _put(self, name: str, module: nn.Module) -> None:
        *path, last = name.split(".")
        parent: nn.Module = self
        for step in path:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, module)


def _copied(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._parameters = {
        name: None if one is None else nn.Parameter(one.data, requires_grad=False)
        for name, one in module._parameters.items()
    }
    twin._modules, twin._buffers = dict(module._modules), dict(module._buffers)
    return twin
