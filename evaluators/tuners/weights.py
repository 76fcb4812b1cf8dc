"""Layers that run the wrapped module with changed weights, and leave its own as they are."""

from __future__ import annotations

from typing import Any, cast

from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn
from torch.func import functional_call

from evaluators.tuners.merging import MergingLayer
from evaluators.tuners.shapes import innermost
from search_space.errors import UnsupportedError


class WeightLayer(MergingLayer):
    """y = base(x) computed with W + sum of the adapters' deltas.

    The innermost module is called functionally, so what it is does not matter (linear, embedding, norm), nor how
    many other adapters are between.
    """

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module on changed tensors."""
        path = self._path_to_innermost()
        changed = {path + name: tensor for name, tensor in self._changed(adapter_names).items()}
        return functional_call(self.base_layer, changed, args, kwargs, tie_weights=False)

    def _changed(self, adapter_names: list[str]) -> dict[str, Tensor]:
        base, changed = self.get_base_layer(), dict[str, Tensor]()
        for adapter_name in adapter_names:
            for name, delta in self.deltas(adapter_name).items():
                changed[name] = changed.get(name, base.get_parameter(name).to(delta.dtype)) + delta
        return {name: tensor.to(base.get_parameter(name).dtype) for name, tensor in changed.items()}

    def _path_to_innermost(self) -> str:
        path, module = "", cast(Any, self.base_layer)
        while hasattr(module, "base_layer"):
            path, module = f"{path}base_layer.", module.base_layer
        return path


def floating_weight(module: nn.Module, name: str) -> Tensor:
    """Return the weight of a module whose weight can be changed by an addition.

    Raises:
        UnsupportedError: It has no weight, or a quantised one.
    """
    module = innermost(module)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise UnsupportedError(f"module {name!r} is a {type(module).__name__}, which has no weight of its own")
    if not is_plain(weight):
        raise UnsupportedError(f"module {name!r} has a quantised weight, which cannot be added to")
    return weight


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds the numbers themselves: quantised ones are of an integer dtype or a class of their own."""
    return tensor.is_floating_point() and type(tensor.data) is Tensor


def saved_buffers() -> BufferDict:
    """Return an empty container of tensors that are saved with the adapter and not trained."""
    return BufferDict(persistent=True)
