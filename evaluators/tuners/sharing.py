"""Parameters that several layers of one adapter hold together, and what saving and loading make of them.

peft knows containers keyed by adapter name in each layer. A parameter that two layers share stands in both: counted
once, since `named_parameters` skips repetitions; saved once, under the name in the layer that held it first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Holder:
    """A layer, and the dotted path under it at which it holds a parameter."""

    layer: nn.Module
    path: str

    def get(self) -> nn.Parameter:
        """Return the parameter."""
        return self.layer.get_parameter(self.path)

    def set(self, parameter: nn.Parameter) -> None:
        """Put a parameter in its place."""
        owner, _, name = self.path.rpartition(".")
        setattr(self.layer.get_submodule(owner), name, parameter)


@dataclass
class Shared:
    """What the layers of one injected adapter share.

    Attributes:
        first: The first holder of each shared parameter.
        merged: What each trained parameter became in the backbone that it was merged into.
        board: Tensors that travel between layers during one forward pass.
    """

    first: dict[Hashable, Holder] = field(default_factory=dict)
    merged: dict[nn.Parameter, nn.Parameter] = field(default_factory=dict)
    board: dict[Hashable, Any] = field(default_factory=dict)

    def parameter(self, key: Hashable, make: Callable[[], nn.Parameter]) -> nn.Parameter:
        """Return the parameter of this key, made at the first call."""
        return self.first[key].get() if key in self.first else make()

    def hold(self, key: Hashable, layer: nn.Module, path: str) -> None:
        """Note that a layer holds the parameter of this key, and tie it to the first holder for good.

        The layer has a list `ties`, which is added to.
        """
        holder = Holder(layer, path)
        first = self.first.setdefault(key, holder)
        if first is not holder:
            layer.__dict__["ties"].append((holder, first))
            layer.register_load_state_dict_post_hook(_TieAgain(holder, first))


@dataclass(frozen=True)
class _TieAgain:
    """Ties a holder to the first one again after a state was loaded by assignment, which makes new parameters."""

    holder: Holder
    first: Holder

    def __call__(self, module: nn.Module, incompatible_keys: Any) -> None:
        still_there = (self.holder, self.first) in module.__dict__["ties"]
        if still_there and self.holder.get() is not self.first.get():
            self.holder.set(self.first.get())


def repeated_keys(model: nn.Module) -> dict[str, str]:
    """Return, for every shared parameter's later names in this model, its first name."""
    names = {id(module): name for name, module in model.named_modules()}
    keys = {}
    for module in model.modules():
        for holder, first in module.__dict__.get("ties", ()):
            keys[_key(holder, names)] = _key(first, names)
    return keys


def _key(holder: Holder, names: dict[int, str]) -> str:
    name = names[id(holder.layer)]
    return f"{name}.{holder.path}" if name else holder.path
