"""The way back through the 4-bit weights that torchao packs for its CUDA kernel, which has none of its own.

The kernel (`aten::_weight_int4pack_mm`) gives products and no derivative. A product with rows of the identity gives the
weights themselves, exactly, so a gradient is multiplied with them block by block: nothing of a weight's whole size is
ever there in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

PACKED = "Int4TilePackedTo4dTensor"
"""The name of torchao's class of such weights."""
_ROWS = 1024


@cache
def differentiate() -> None:
    """Let gradients pass a linear map with packed weights, in the whole process."""
    from torchao.quantization import Int4TilePackedTo4dTensor as Packed

    _product_of(Packed)
    Packed.implements_torch_function(torch.nn.functional.linear)(_linear)


def dequantised(weight: Tensor) -> Tensor:
    """Return a packed weight as it is computed with, bfloat16. Shape: [outputs, inputs]."""
    return torch.cat([rows for _, rows in _blocks(weight)]).T


def _linear(_function: Any, _types: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    given = dict(zip(("input", "weight", "bias"), arguments, strict=False)) | named
    product: Tensor = _Product.apply(given["input"], given["weight"])
    return product if given.get("bias") is None else product + given["bias"].to(product.dtype)


class _Product(torch.autograd.Function):
    """An input times a packed weight's transpose; the weight itself is frozen."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return _product(inputs, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        found = gradient.new_empty((*gradient.shape[:-1], ctx.weight.shape[1]))
        for columns, rows in _blocks(ctx.weight):
            found[..., columns] = gradient @ rows.T.to(gradient.dtype)
        return found, None


def _blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of a weight's columns, transposed, with their places. Shape: [inputs of the block, outputs]."""
    width = weight.shape[1]
    for start in range(0, width, _ROWS):
        block = slice(start, min(start + _ROWS, width))
        rows = torch.zeros((block.stop - start, width), dtype=torch.bfloat16, device=weight.device)
        rows.diagonal(start).fill_(1)
        yield block, _product(rows, weight)


def _product(inputs: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = _product_of(type(weight))(torch.nn.functional.linear, (), (inputs, weight), {})
    return product


@cache
def _product_of(packed: Any) -> Any:
    """Return torchao's own way to multiply, which `differentiate` puts ours in the place of."""
    return packed._TORCH_FN_TABLE[packed][torch.nn.functional.linear]
