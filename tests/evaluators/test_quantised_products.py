"""The way back through quantised weights: the gradient is right, and nothing is kept for it but the weights."""

from __future__ import annotations

import gc
import importlib.util
import weakref

import pytest
import torch
from torch import Tensor, nn

from evaluators.attach import attach
from evaluators.quantised_products import dequantised, free_of_inputs
from evaluators.specimens import tiny_quantised
from search_space.notation import parse

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("bitsandbytes") and importlib.util.find_spec("torchao")),
    reason="needs paretune[quantization]",
)


def _quantised(kind: str, device: str, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """Return a frozen quantised layer and its weight before."""
    from evaluators.quantization import _torchao

    layer = nn.Linear(inputs, outputs, device=device, dtype=dtype).requires_grad_(False)
    weight = layer.weight.detach().float()
    if kind == "int8":
        import bitsandbytes

        eight = bitsandbytes.nn.Linear8bitLt(inputs, outputs, has_fp16_weights=False)
        eight.load_state_dict({"weight": weight.cpu().half(), "bias": layer.bias.cpu().half()})
        held: nn.Module = nn.Sequential(eight.to(device).requires_grad_(False)).eval()
        held(torch.zeros(1, inputs, dtype=dtype, device=device))
    else:
        from torchao.quantization import quantize_

        held = nn.Sequential(layer)
        quantize_(held, _torchao(kind, torch.device(device)))
    free_of_inputs(held)
    return held, weight


def _is_right(kind: str, device: str, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    held, weight = _quantised(kind, device, outputs, inputs, dtype)
    given = torch.randn(64, inputs, device=device, dtype=dtype, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        product = held(given)
    product += 1  # as peft's tuners do
    assert sum(kept) == 0
    assert (product - 1 - nn.functional.linear(given, weight.to(dtype), held[0].bias.to(dtype))).abs().max() < 0.4
    gradient = torch.randn_like(product)
    product.backward(gradient)
    wanted = gradient.float() @ weight
    assert given.grad is not None
    assert (given.grad.float() - wanted).norm() < 0.15 * wanted.norm()
    with torch.no_grad():
        assert torch.equal(held(given.detach()), held(given.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "torchao_int8", "torchao_int4"])
def test_a_gradient_is_the_weights(kind: str, dtype: torch.dtype) -> None:
    _is_right(kind, "cpu", 48, 96, dtype)


@pytest.mark.parametrize("kind", ["int8", "torchao_int8", "torchao_int4"])
def test_inputs_do_not_wait_for_the_way_back(kind: str) -> None:
    held, _ = _quantised(kind, "cpu", 48, 96, torch.float32)
    given = torch.randn(4, 96, requires_grad=True) * 2
    there = weakref.ref(given)
    product = held(given)
    del given
    gc.collect()
    assert there() is None
    product.sum().backward()


def test_a_second_call_changes_nothing() -> None:
    held, _ = _quantised("int8", "cpu", 48, 96, torch.float32)
    before = type(held[0])
    free_of_inputs(held)
    assert type(held[0]) is before


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(48, 96), (512, 2048)])
@pytest.mark.parametrize("kind", ["int8", "torchao_int8", "torchao_int4"])
def test_a_gradient_is_the_weights_on_cuda(kind: str, shape: tuple[int, int]) -> None:
    _is_right(kind, "cuda", *shape, torch.bfloat16)


@pytest.mark.gpu
def test_what_cuda_packs_is_unpacked() -> None:
    held, weight = _quantised("torchao_int4", "cuda", 48, 1500, torch.bfloat16)
    assert (dequantised(held[0].weight).float() - weight).abs().max() < weight.abs().max() / 8


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_what_rewrites_weights_leaves_the_backbones_where_they_are(kind: str) -> None:
    """A storage that moved would be freed, and another tensor's by the time that a candidate's state is told apart."""
    model, anatomy = tiny_quantised("llama", kind, torch.float32)
    before = {name: one.data_ptr() for name, one in model.named_parameters()}
    attach(model, anatomy, parse("olora(r=4)"))
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == before
