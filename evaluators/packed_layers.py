"""Frozen modules with what several runs put on them, each run's on its own rows, by one batched product for all runs.

The rows of a batch are those of the first run, then those of the second, and so on; all runs have as many. Sizes may
differ: the smaller matrices are filled up with zeros, which add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from evaluators.tuners.bottleneck import ACTIVATIONS
from evaluators.tuners.parallel_adapter import ParallelAdapterLayer
from evaluators.tuners.serial_adapter import SerialAdapterLayer
from evaluators.tuners.streams import first_input, with_first_output
from evaluators.tuners.wrapping import cast_like


class PackedLayer(nn.Module):
    """A frozen module with one kind of adapter of several runs.

    Args:
        base_layer: The frozen module, or another packed layer around it.
        layers: The runs' own layers in its place, in the order of their rows.
    """

    def __init__(self, base_layer: nn.Module, layers: Sequence[Any]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.layers = tuple(layers)  # no submodules: they are the runs' own

    @classmethod
    def form(cls, layer: Any) -> tuple[Any, ...]:
        """Return what has to be equal in all runs."""
        return tuple(_adapters(layer))

    @classmethod
    def matrices(cls, layer: Any) -> list[Tensor]:
        """Return the parameters of a run's layer that are batched here; a layer with others cannot be packed."""
        raise NotImplementedError


class PackedLora(PackedLayer):
    """Plain LoRA: y = base(x) + s B A x."""

    @classmethod
    def matrices(cls, layer: Linear) -> list[Tensor]:
        """Return A and B; none where it is a variant, such as DoRA."""
        if layer.lora_variant:
            return []
        return [getattr(layer, matrix)[name].weight for name in _adapters(layer) for matrix in ("lora_A", "lora_B")]

    def forward(self, x: Tensor) -> Tensor:
        """Return [runs * rows, ..., out] for [runs * rows, ..., in]."""
        result: Tensor = self.base_layer(x)
        dtype = result.dtype
        for adapter in _adapters(self.layers[0]):
            down = _stacked([layer.lora_A[adapter].weight for layer in self.layers], dimension=0)
            up = _stacked([layer.lora_B[adapter].weight for layer in self.layers], dimension=1)
            rows = x.to(down.dtype).reshape(len(self.layers), -1, x.shape[-1])
            change = torch.bmm(torch.bmm(rows, down.mT), up.mT)
            change = change * _factors([layer.scaling[adapter] for layer in self.layers], change)
            result = result + change.reshape(result.shape)
        return result.to(dtype)


class _PackedBottleneck(PackedLayer):
    """Bottleneck adapters of one activation, without norms of their own."""

    kind: ClassVar[str]

    @classmethod
    def form(cls, layer: Any) -> tuple[Any, ...]:
        """Return the adapters, each with its activation."""
        return tuple((name, _part(layer, cls.kind, "config", name).activation) for name in _adapters(layer))

    @classmethod
    def matrices(cls, layer: Any) -> list[Tensor]:
        """Return the weights and biases of both projections."""
        found = [_part(layer, cls.kind, end, name) for name in _adapters(layer) for end in ("down", "up")]
        return [one for linear in found for one in (linear.weight, linear.bias)]

    def _change(self, adapter: str, x: Tensor) -> Tensor:
        """Return s W_up f(W_down x) for [runs * rows, ..., in], in float32."""
        downs, ups = ([_part(one, self.kind, end, adapter) for one in self.layers] for end in ("down", "up"))
        configs = [_part(one, self.kind, "config", adapter) for one in self.layers]
        rows = x.to(torch.float32).reshape(len(self.layers), -1, x.shape[-1])
        shifts = _stacked([one.bias[:, None] for one in downs], dimension=0).mT
        inner = torch.baddbmm(shifts, rows, _stacked([one.weight for one in downs], dimension=0).mT)
        inner = ACTIVATIONS[configs[0].activation](inner)  # which leaves the zeros that fill up as they are
        shifts = torch.stack([one.bias for one in ups])[:, None]
        outer = torch.baddbmm(shifts, inner, _stacked([one.weight for one in ups], dimension=1).mT)
        outer = outer * _factors([one.scaling for one in configs], outer)
        return outer.reshape(*x.shape[:-1], outer.shape[-1])


class PackedSerialAdapter(_PackedBottleneck):
    """Serial adapters: y = h + s W_up f(W_down h) with h = base(x)."""

    kind = "serial_adapter"

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return [runs * rows, ..., out]."""
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for adapter in _adapters(self.layers[0]):
            hidden = hidden + cast_like(self._change(adapter, hidden), hidden)
        return hidden


class PackedParallelAdapter(_PackedBottleneck):
    """Parallel adapters: y = base(x) + s W_up f(W_down x)."""

    kind = "parallel_adapter"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the base gives, its hidden states changed."""
        x = first_input(args, kwargs)
        added = [self._change(adapter, x) for adapter in _adapters(self.layers[0])]
        return with_first_output(self.base_layer(*args, **kwargs), lambda hidden: sum(added, hidden))


class PackedHead(nn.Module):
    """The heads of several runs, each on its own rows."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = tuple(heads)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return [runs * rows, ..., classes]."""
        parts = zip(self.heads, x.chunk(len(self.heads)), strict=True)
        return torch.cat([head(rows, *args, **kwargs) for head, rows in parts])


PACKED: dict[type[nn.Module], type[PackedLayer]] = {
    Linear: PackedLora,
    SerialAdapterLayer: PackedSerialAdapter,
    ParallelAdapterLayer: PackedParallelAdapter,
}
"""What stands for the runs' layers of a type; layers of other types cannot be packed."""


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """Return what tuners put into a model by name, outer ones before those that they stand around."""
    return {name: one for name, one in model.named_modules() if isinstance(one, BaseTunerLayer)}


def form_of(layer: BaseTunerLayer) -> tuple[Any, ...]:
    """Return what has to be equal in the layers of all runs in one place."""
    packed = PACKED.get(type(layer))
    return (type(layer), *(packed.form(layer) if packed else ()))


def batched(layer: BaseTunerLayer) -> list[Tensor]:
    """Return the parameters of a layer that are batched; none where it cannot be packed."""
    packed = PACKED.get(type(layer))
    return packed.matrices(layer) if packed else []


def _adapters(layer: Any) -> list[str]:
    present = layer._get_available_adapters()
    return [name for name in layer.active_adapters if name in present]


def _part(layer: Any, kind: str, what: str, adapter: str) -> Any:
    return getattr(layer, f"{kind}_{what}")[adapter]


def _factors(scales: Sequence[float], like: Tensor) -> Tensor:
    """Return the runs' factors, [runs, 1, 1]."""
    return torch.tensor(scales, dtype=like.dtype, device=like.device)[:, None, None]


def _stacked(matrices: Sequence[Tensor], dimension: int) -> Tensor:
    """Return matrices on top of each other, the smaller ones filled up with zeros along the rank's dimension."""
    rank = max(one.shape[dimension] for one in matrices)
    missing = [rank - one.shape[dimension] for one in matrices]
    padding = [(0, 0, 0, more) if dimension == 0 else (0, more) for more in missing]
    return torch.stack([nn.functional.pad(one, more) for one, more in zip(matrices, padding, strict=True)])
