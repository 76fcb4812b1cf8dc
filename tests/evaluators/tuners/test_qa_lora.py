"""QA-LoRA: the equation, and columns of the change that are alike within a group."""

from __future__ import annotations

import torch
from peft import inject_adapter_in_model
from torch import nn

from evaluators.tuners.qa_lora import QaLoraConfig


def adapted(groups: int, size: int) -> tuple[nn.Sequential, nn.Linear]:
    """Return a model of one adapted linear layer, B drawn, and the layer as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(groups * size, 5))
    base = model[0]
    inject_adapter_in_model(QaLoraConfig(target_modules=["0"], r=2, alpha=3.0, group_size=size), model)
    nn.init.normal_(model[0].qa_lora_b["default"].weight)
    return model, base


def test_it_computes_the_papers_equation() -> None:
    model, base = adapted(groups=3, size=4)
    a, b = model[0].qa_lora_a["default"].weight, model[0].qa_lora_b["default"].weight
    x = torch.randn(7, 12)
    pooled = torch.stack([x[:, start : start + 4].sum(1) for start in (0, 4, 8)], 1)
    torch.testing.assert_close(model(x), base(x) + 3.0 / 2 * pooled @ a.T @ b.T)


def test_the_change_is_alike_within_a_group_and_so_goes_into_the_zero_points() -> None:
    model, base = adapted(groups=3, size=4)
    before = base.weight.detach().clone()
    model[0].merge()
    change = (model[0].get_base_layer().weight - before).unflatten(1, (3, 4))
    torch.testing.assert_close(change, change[:, :, :1].expand_as(change))
    assert change.abs().max() > 0.1
