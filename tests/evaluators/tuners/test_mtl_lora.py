"""MTL-LoRA: the equation for each task, and the number of the task that it must be told."""

from __future__ import annotations

import pytest
import torch
from peft import inject_adapter_in_model
from torch import nn

from evaluators.tuners.mtl_lora import MtlLoraConfig


def adapted(tasks: int) -> tuple[nn.Sequential, nn.Linear]:
    """Return a model of one adapted linear layer, every tensor drawn, and the layer as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    base = model[0]
    config = MtlLoraConfig(target_modules=["0"], r=2, alpha=3.0, n_up=3, n_tasks=tasks, temperature=0.5)
    inject_adapter_in_model(config, model)
    for name in model[0].adapter_layer_names:
        nn.init.normal_(getattr(model[0], name)["default"])
    return model, base


@pytest.mark.parametrize("task", [0, 1])
def test_it_computes_the_papers_equation_for_each_task(task: int) -> None:
    model, base = adapted(tasks=2)
    layer, x = model[0], torch.randn(4, 6)
    layer.__dict__["task_ids"] = torch.tensor([task])
    a, ups = layer.mtl_lora_a["default"], layer.mtl_lora_b["default"]
    own, weights = layer.mtl_lora_own["default"][task], layer.mtl_lora_weights["default"][task]
    shares = (weights / 0.5).exp() / (weights / 0.5).exp().sum()
    added = torch.zeros(4, 5)
    for share, up in zip(shares, ups, strict=True):
        added = added + share * (x @ a.T @ own.T @ up.T)
    torch.testing.assert_close(model(x), base(x) + 3.0 / 2 * added)


def test_it_asks_for_the_task_where_there_are_several() -> None:
    model, _ = adapted(tasks=2)
    with pytest.raises(ValueError, match="made for 2 tasks: call the model with task_ids"):
        model(torch.randn(1, 6))
    adapted(tasks=1)[0](torch.randn(1, 6))
