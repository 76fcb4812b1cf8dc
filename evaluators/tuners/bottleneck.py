"""The two matrices and the nonlinearity that every bottleneck adapter is made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}
"""Nonlinearities by name. `identity` makes the adapter linear, as LoRA after the module would be."""


def bottleneck(x: Tensor, down: nn.Module, activation: str, up: nn.Module) -> Tensor:
    """Return W_up f(W_down x), computed in float32."""
    result: Tensor = up(ACTIVATIONS[activation](down(x.to(torch.float32))))
    return result


def down_projection(width: int, size: int, device: torch.device) -> nn.Linear:
    """Return W_down in float32: Kaiming-uniform weights as `nn.Linear` draws them, zero bias."""
    layer = nn.Linear(width, size, device=device, dtype=torch.float32)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    nn.init.zeros_(layer.bias)
    return layer


def up_projection(size: int, width: int, device: torch.device) -> nn.Linear:
    """Return W_up in float32, all zeros, so that the adapter adds nothing at the start."""
    layer = nn.Linear(size, width, device=device, dtype=torch.float32)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
