"""Gradients through torchao's packed 4-bit weights: by blocks of the weights that the kernel computes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from evaluators import int4


def _kernel(_function: Any, _types: Any, arguments: tuple[Any, ...], _named: Any) -> Tensor:
    """Multiply as the kernel does: in bfloat16, without a way back."""
    with torch.no_grad():
        return linear(arguments[0].bfloat16(), arguments[1]).to(arguments[0].dtype)


@pytest.mark.parametrize("width", [96, 1024, 2500])
def test_a_gradient_is_multiplied_by_the_weight_block_by_block(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4, "_product_of", lambda _packed: _kernel)
    weight = torch.randn(24, width).bfloat16()
    assert torch.equal(int4.dequantised(weight), weight)
    inputs = torch.randn(2, 3, width, requires_grad=True)
    bias = torch.randn(24)
    product = int4._linear(None, (), (inputs, weight, bias), {})
    torch.testing.assert_close(product, linear(inputs, weight.float(), bias), atol=0.3, rtol=0.02)
    gradient = torch.randn_like(product)
    product.backward(gradient)
    torch.testing.assert_close(inputs.grad, gradient @ weight.float())


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(48, 96), (512, 2048)])
def test_what_cuda_packs_has_a_way_back(shape: tuple[int, int]) -> None:
    from torchao.quantization import quantize_

    from evaluators.quantization import _torchao

    layer = torch.nn.Linear(shape[1], shape[0], device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    before = layer.weight.float()
    quantize_(layer, _torchao("torchao_int4", torch.device("cuda")))
    weight = int4.dequantised(layer.weight).float()
    assert (weight - before).abs().max() < before.abs().max() / 8
    inputs = torch.randn(5, 7, shape[1], device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layer(inputs).float().square().sum().backward()
    again = inputs.detach().float().requires_grad_()
    linear(again, weight, layer.bias.float()).square().sum().backward()
    torch.testing.assert_close(inputs.grad.float(), again.grad, atol=0.1 * float(again.grad.abs().max()), rtol=0.05)
