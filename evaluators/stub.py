"""Models with nothing in them but a few modules of another: what a tuner needs to be injected, and no more."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from evaluators.model_copies import named_modules, named_parameters


class Stub(nn.Module):
    """Holds copies of single modules of a model on `meta`, under names like those there. It computes nothing."""

    def __init__(self, model_type: str, modules: Iterable[tuple[str, nn.Module]]) -> None:
        """Copy modules, their tensors shared with the model.

        Args:
            model_type: Of the model, as its configuration names it.
            modules: The modules, each with its name here.
        """
        super().__init__()
        self.config: Any = {"model_type": model_type}
        for name, module in modules:
            self.put(name, _copied(module))

    def get_input_embeddings(self) -> None:
        """Return none: tuners ask for it to find tied weights."""
        return

    named_modules, named_parameters = named_modules, named_parameters

    def put(self, name: str, module: nn.Module) -> None:
        """Put a module where its name says, in the place of what stands there."""
        *path, last = name.split(".")
        parent: nn.Module = self
        for step in path:
            child = parent._modules.get(step)
            if child is None:
                parent.add_module(step, child := nn.Module())
            parent = child
        parent.add_module(last, module)


class Skeleton(Stub):
    """A stub that has some modules under their own names, and empty ones under the names that end as theirs do."""

    def __init__(self, model_type: str, modules: Mapping[str, nn.Module], names: Iterable[str]) -> None:
        """Copy some modules.

        Args:
            model_type: Of the model, as its configuration names it.
            modules: All modules of the model, by their full names.
            names: The names of those to copy.
        """
        super().__init__(model_type, ())
        full = dict.fromkeys(names)
        ends = {name.rpartition(".")[2] for name in full}
        within = tuple(f"{name}." for name in full)
        for name, module in modules.items():
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
