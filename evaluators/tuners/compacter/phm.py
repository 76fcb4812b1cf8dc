"""The parameterised hypercomplex multiplication layer (PHM) that Compacter is made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def rules(n: int, device: torch.device) -> nn.Parameter:
    """Return the matrices A_1 ... A_n, shape [n, n, n], so scaled that W has the variance of its B_i."""
    return nn.Parameter(torch.empty(n, n, n, device=device, dtype=torch.float32).normal_(std=n**-0.5))


class PHMLinear(nn.Module):
    """y = x W + b with W = sum_i A_i ⊗ B_i (the PHM layer of Karimi Mahabadi et al. 2021).

    With a rank, B_i = s_i t_i with s_i of shape [width / n, rank] and t_i of shape [rank, out / n] (LPHM).
    The A_i are passed to the forward pass, since several layers share them.

    Args:
        width: Width of the input, a multiple of `n`.
        out: Width of the output, a multiple of `n`.
        n: Number of terms.
        rank: Rank of the B_i; without one they are full matrices.
        zero: Whether W starts as zero.
        device: Where the parameters are.
    """

    def __init__(self, width: int, out: int, n: int, rank: int | None, zero: bool, device: torch.device) -> None:
        super().__init__()

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=torch.float32))

        self.rank = rank
        self.bias = empty(out)
        nn.init.zeros_(self.bias)
        if rank is None:
            self.b = empty(n, width // n, out // n)
            _start(self.b, zero, lambda tensor: _glorot(tensor, width, out))
            return
        self.s = empty(n, width // n, rank)
        self.t = empty(n, rank, out // n)
        _start(self.s, False, lambda tensor: _glorot(tensor, width, out))
        _start(self.t, zero, lambda tensor: tensor.normal_(std=rank**-0.5))

    def weight(self, a: Tensor) -> Tensor:
        """Return W, shape [width, out], for these A_i, shape [n, n, n]."""
        b = self.b if self.rank is None else self.s @ self.t
        terms = torch.einsum("iab,icd->acbd", a, b)
        return terms.reshape(a.shape[1] * b.shape[1], a.shape[2] * b.shape[2])

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Return x W + b."""
        return functional.linear(x, self.weight(a).T, self.bias)


def _start(tensor: Tensor, zero: bool, draw: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        if zero:
            tensor.zero_()
        else:
            draw(tensor)


def _glorot(tensor: Tensor, width: int, out: int) -> Tensor:
    bound = math.sqrt(6.0 / (width + out))
    return tensor.uniform_(-bound, bound)
