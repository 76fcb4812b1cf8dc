"""What can be read off a module without running it: widths, device, kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from search_space.errors import UnsupportedError


def innermost(module: nn.Module) -> nn.Module:
    """Return the backbone's own module under any number of adapters."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def is_linear(module: nn.Module) -> bool:
    """Whether the module is an affine map: `nn.Linear`, transformers' `Conv1D`, or either quantised."""
    module = innermost(module)
    return isinstance(module, (nn.Linear, Conv1D)) or _has_widths(module)


def is_norm(module: nn.Module) -> bool:
    """Whether the module normalises its input and scales it by a vector (LayerNorm, RMSNorm ...)."""
    module = innermost(module)
    weight = getattr(module, "weight", None)
    named_so = isinstance(module, nn.LayerNorm) or "norm" in type(module).__name__.lower()
    return named_so and isinstance(weight, Tensor) and weight.ndim == 1


def input_width(module: nn.Module, name: str) -> int:
    """Return the width of the last axis of the module's input.

    Raises:
        UnsupportedError: The module is neither linear nor a norm.
    """
    module = innermost(module)
    if isinstance(module, Conv1D):
        return _weight(module).shape[0]
    if _has_widths(module):
        return cast(int, module.in_features)
    return _norm_width(module, name)


def output_width(module: nn.Module, name: str) -> int:
    """Return the width of the last axis of the module's output.

    Raises:
        UnsupportedError: The module is neither linear nor a norm.
    """
    module = innermost(module)
    if isinstance(module, Conv1D):
        return _weight(module).shape[1]
    if _has_widths(module):
        return cast(int, module.out_features)
    return _norm_width(module, name)


def block_widths(module: nn.Module, name: str) -> tuple[int, int]:
    """Return the widths of the input and the output of a linear module or of a whole block.

    A block takes what its first linear module takes, and gives what its last one gives: so it is in the attention
    and feed-forward blocks of transformers.

    Raises:
        UnsupportedError: There is no linear module in it.
    """
    linear = [inner for _, inner in backbone_modules(module) if is_linear(inner)]
    if not linear:
        raise UnsupportedError(
            f"module {name!r} is a {type(module).__name__} without a linear module in it, so its width is unknown"
        )
    return input_width(linear[0], name), output_width(linear[-1], name)


def backbone_modules(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the backbone's own modules with their names, as they were before any adapter was attached."""
    module = innermost(module)
    yield name, module
    for child_name, child in module.named_children():
        yield from backbone_modules(child, f"{name}.{child_name}" if name else child_name)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's first tensor, or the default device when it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.get_default_device()


def _has_widths(module: nn.Module) -> bool:
    return isinstance(getattr(module, "in_features", None), int) and isinstance(
        getattr(module, "out_features", None), int
    )


def _norm_width(module: nn.Module, name: str) -> int:
    if not is_norm(module):
        raise UnsupportedError(
            f"module {name!r} is a {type(module).__name__}, whose width is unknown; "
            "linear modules and norms are allowed"
        )
    return _weight(module).shape[0]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise UnsupportedError(f"a {type(module).__name__} has no weight tensor")
    return weight
