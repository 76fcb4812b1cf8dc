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
            self.put(here, _copied(model.get_submodule(there)))

    def get_input_embeddings(self) -> None:
        """Return none: tuners ask for it to find tied weights."""
        return

    def put(self, name: str, module: nn.Module) -> None:
        """Put a module where its name says, in the place of what stands there."""
        *path, last = name.split(".")
        parent: nn.Module = self
        for step in path:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, module)


class Skeleton(Stub):
    """A stub that has some modules under their own names, and empty ones under the names that end as theirs do."""

    def __init__(self, model: Any, names: Iterable[str]) -> None:
        """Copy some modules.

        Args:
            model: Where they stand.
            names: Their full names.
        """
        super().__init__(model, ())
        full = dict.fromkeys(names)
        ends = {name.rpartition(".")[2] for name in full}
        within = tuple(f"{name}." for name in full)
        for name, module in model.named_modules():
            if name in full:
                self.put(name, _copied(module))
            elif name.rpartition(".")[2] in ends and not name.startswith(within):
                self.put(name, nn.Module())


def _copied(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._parameters = {
        name: None if one is None else nn.Parameter(one.data, requires_grad=False)
        for name, one in module._parameters.items()
    }
    twin._modules, twin._buffers = dict(module._modules), dict(module._buffers)
    return twin
