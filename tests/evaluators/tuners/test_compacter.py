"""Compacter: Kronecker products, what is shared, counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn

from evaluators.tuners.compacter import CompacterConfig
from evaluators.tuners.compacter.phm import PHMLinear, rules
from search_space.errors import CandidateError, UnsupportedError


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_the_weight_is_a_sum_of_kronecker_products(rank: int | None) -> None:
    torch.manual_seed(0)
    device = torch.device("cpu")
    layer, a = PHMLinear(8, 12, 4, rank, zero=False, device=device), rules(4, device)
    nn.init.normal_(layer.bias)
    b = layer.b if rank is None else torch.stack([s @ t for s, t in zip(layer.s, layer.t, strict=True)])
    weight = sum(torch.kron(a[i], b[i]) for i in range(4))
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x, a), x @ weight + layer.bias)


@pytest.mark.parametrize(
    ("knobs", "per_target", "once"),
    [
        ({}, 2 * (16 + 8) + 8 + 16, 4**3),
        ({"factor_rank": 3}, 2 * 3 * (16 + 8) + 8 + 16, 4**3),
        ({"factorised": False}, 2 * 8 * 16 // 4 + 8 + 16, 4**3),
        ({"shared": False}, 2 * (16 + 8) + 8 + 16 + 4**3, 0),
    ],
)
def test_its_count_follows_from_its_knobs(bert: Any, knobs: dict[str, Any], per_target: int, once: int) -> None:
    model = bert.build(device="meta")
    targets = [f"bert.encoder.layer.{i}.output.dense" for i in range(2)]
    inject_adapter_in_model(CompacterConfig(target_modules=targets, r=8, n=4, **knobs), model)
    assert trained(model) == 2 * per_target + once


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_what_is_shared_is_saved_once_and_stays_shared(bert: Any, tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    config = CompacterConfig(target_modules=bert.names("feed_forward"), r=8, n=4)
    adapted = get_peft_model(bert.build(), config)
    adapted.save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in state.values()) == trained(adapted)
    reloaded = PeftModel.from_pretrained(bert.build(), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage)
    assert trained(reloaded) == trained(adapted)
    adapted.load_adapter(tmp_path, "again", is_trainable=True)
    adapted.set_adapter("again")
    adapted.delete_adapter("default")
    assert trained(adapted) == trained(reloaded)


def test_a_width_that_n_does_not_divide_is_refused(bert: Any) -> None:
    config = CompacterConfig(target_modules=bert.names("norm"), r=6, n=3)
    with pytest.raises(UnsupportedError, match=r"n = 3 does not divide the width 16.*; 2 would"):
        inject_adapter_in_model(config, bert.build())


def test_a_bottleneck_that_n_does_not_divide_is_refused() -> None:
    with pytest.raises(CandidateError, match="multiple of n"):
        CompacterConfig(target_modules=["0"], r=6, n=4)
