"""Products with frozen quantised weights whose way back needs the weights alone.

The libraries' own keep more, or have no way back: torchao's 8-bit weights leave a copy in 16 bits of every weight
until the way back, bitsandbytes' leave every input, and torchao's 4-bit kernel on CUDA has no derivative. A frozen
weight needs none of that: the gradient of the inputs is the gradient of the products times the weight, which is made
again from its integers, one module at a time (as QLoRA does: Dettmers et al. 2023, arXiv:2305.14314, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

PACKED = "Int4TilePackedTo4dTensor"
"""The name of torchao's class of 4-bit weights that are packed for its CUDA kernel."""
_IN_FLOAT32 = ("ADALORA", "HIRA")
"""Types whose layers for 8-bit weights take their input to float32, or their adapter, whatever the other is."""
_ROWS = 1024


def free_of_inputs(model: nn.Module) -> None:
    """Let the way back through a model's quantised linear modules need their weights alone.

    Modules with 8-bit weights of bitsandbytes are told the type of the arithmetic too, as those with 4-bit ones are:
    peft gives it to what is attached there, which would be float32 else.
    """
    plain = (one.dtype for one in model.parameters() if type(one) is nn.Parameter and one.is_floating_point())
    dtype = next(plain, torch.float32)
    for module in model.modules():
        kind, own = _kind(module), cast("Any", type(module))
        if kind.__name__ == "Int8Params" and not isinstance(module, _Eightfold):
            module.__class__ = _eightfold(own)
            module.__dict__["compute_dtype"] = dtype
        elif "_TORCH_FN_TABLE" in dir(kind):
            _differentiate(kind)


def _kind(module: nn.Module) -> Any:
    """Return the class of a module's weight."""
    return type(getattr(module, "weight", None))


@contextmanager
def untold_of_type(model: nn.Module, peft_type: str) -> Iterator[None]:
    """Within it, peft knows no type of 8-bit modules where what it attaches there computes in float32 alone."""
    held = [one for one in model.modules() if isinstance(one, _Eightfold)] if peft_type in _IN_FLOAT32 else []
    types = [one.__dict__.pop("compute_dtype", None) for one in held]
    try:
        yield
    finally:
        for one, dtype in zip(held, types, strict=True):
            one.__dict__["compute_dtype"] = dtype


def dequantised(weight: Tensor) -> Tensor:
    """Return a weight of torchao as it is computed with. Shape: [outputs, inputs]."""
    return _unpacked(weight) if type(weight).__name__ == PACKED else weight.dequantize()


def eight_bits(integers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight of bitsandbytes' 8 bits: rows scaled by their largest value.

    Dettmers et al. 2022, arXiv:2208.07339, section 2.1. Shapes: integers [outputs, inputs], scales [outputs].
    """
    return integers.to(dtype) * (scales / 127).to(dtype).unsqueeze(1)


class _Product(torch.autograd.Function):
    """What `multiply` makes of inputs; `weight` gives what their gradient is multiplied with, when it is needed."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, multiply: Callable[[Tensor], Tensor], weight: Callable[[], Tensor]) -> Tensor:
        ctx.weight = weight
        product = multiply(inputs)
        return product.clone() if product._is_view() else product  # what is no view may be written into afterwards

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return gradient @ ctx.weight().to(gradient.dtype), None, None


def _differentiate(kind: Any) -> None:
    """Put our product in the place of torchao's, for all weights of a class, once."""
    if kind in _PRODUCTS:
        return
    product = kind._TORCH_FN_TABLE[kind][nn.functional.linear]

    def linear(_function: Any, _types: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        given = dict(zip(("input", "weight", "bias"), arguments, strict=False)) | named
        inputs, weight, bias = given["input"], given["weight"], given.get("bias")

        def multiply(one: Tensor) -> Tensor:
            found: Tensor = product(nn.functional.linear, (), (one, weight), {})
            return found

        needed = torch.is_grad_enabled() and inputs.requires_grad
        found = _Product.apply(inputs, multiply, lambda: dequantised(weight)) if needed else multiply(inputs)
        return found if bias is None else found + bias.to(found.dtype)

    _PRODUCTS[kind] = product
    kind.implements_torch_function(nn.functional.linear)(linear)


_PRODUCTS: dict[Any, Any] = {}
"""torchao's own products, by class of weight."""


def _unpacked(weight: Tensor) -> Tensor:
    """Return packed weights: their products with rows of the identity, which are exact."""
    width = weight.shape[1]
    product = _PRODUCTS[type(weight)]
    found = []
    for start in range(0, width, _ROWS):
        rows = torch.zeros((min(_ROWS, width - start), width), dtype=torch.bfloat16, device=weight.device)
        rows.diagonal(start).fill_(1)
        found.append(product(nn.functional.linear, (), (rows, weight), {}))
    return torch.cat(found).T


class _Eightfold:
    """Marks the 8-bit modules of bitsandbytes whose way back is ours."""


@cache
def _eightfold(kind: Any) -> Any:
    class Linear8bitLt(_Eightfold, kind):
        """An 8-bit module whose way back keeps no inputs; one whose bias is trained has the library's."""

        def forward(self, inputs: Tensor) -> Tensor:
            trained = self.bias is not None and self.bias.requires_grad
            if trained or not (torch.is_grad_enabled() and inputs.requires_grad):
                found: Tensor = super().forward(inputs)
                return found
            dtype = inputs.dtype  # what is made for the way back must not hold the inputs
            state = self.state
            product: Tensor = _Product.apply(inputs, super().forward, lambda: eight_bits(state.CB, state.SCB, dtype))
            return product

    return Linear8bitLt
