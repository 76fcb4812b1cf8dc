"""UniPELT: gates, equations, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model
from torch import nn

from evaluators.tuners.unipelt import UniPeltConfig
from search_space.errors import PlacementError, UnsupportedError


@pytest.mark.parametrize("gate", ["token", "sequence"])
def test_it_computes_the_papers_equations(gate: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    config = UniPeltConfig(
        target_modules=["0", "1"], adapter_modules=["1"], lora_r=2, lora_alpha=3.0, adapter_r=2, gate=gate
    )
    x, (first, second) = torch.randn(2, 3, 6), (model[0], model[1])
    inject_adapter_in_model(config, model)
    lora, adapter = model
    nn.init.normal_(lora.unipelt_b["default"].weight)
    nn.init.normal_(adapter.unipelt_up["default"].weight)

    def opened(layer: Any, tensor: torch.Tensor) -> torch.Tensor:
        one = torch.sigmoid(layer.unipelt_gate["default"](tensor))
        return one if gate == "token" else one.mean(1, keepdim=True)

    h = first(x) + opened(lora, x) * 1.5 * lora.unipelt_b["default"](lora.unipelt_a["default"](x))
    h = second(h)
    added = adapter.unipelt_up["default"](torch.relu(adapter.unipelt_down["default"](h)))
    torch.testing.assert_close(model(x), h + opened(adapter, h) * added)


def test_its_count_follows_from_the_widths(bert: Any) -> None:
    model = bert.build(device="meta")
    adapters = [f"bert.encoder.layer.{i}.output.dense" for i in range(2)]
    config = UniPeltConfig(
        target_modules=[*bert.names("attention"), *adapters], adapter_modules=adapters, lora_r=2, adapter_r=3
    )
    inject_adapter_in_model(config, model)
    lora, adapter = 2 * (16 + 16) + 16 + 1, 2 * 3 * 16 + 3 + 2 * 16 + 1
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4 * lora + 2 * adapter


def test_bad_placements_are_refused(bert: Any) -> None:
    with pytest.raises(PlacementError, match="not among the target modules"):
        UniPeltConfig(target_modules=["a"], adapter_modules=["b"])
    with pytest.raises(UnsupportedError, match="cannot have a LoRA"):
        inject_adapter_in_model(UniPeltConfig(target_modules=bert.names("norm")), bert.build())
