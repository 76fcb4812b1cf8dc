"""Diff pruning: gates, penalty, the final mask."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn

from evaluators.tuners.diff_pruning import DiffPruningConfig, fix_mask, kept_weights, sparsity_penalty
from search_space.errors import CandidateError, PlacementError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def pruned(**knobs: Any) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 4)).requires_grad_(False)
    inject_adapter_in_model(DiffPruningConfig(target_modules=["0", "1"], **knobs), model)
    for layer in model:
        nn.init.normal_(layer.diff_pruning_change["default"])
    return model


def test_gates_are_hard_concrete() -> None:
    layer = pruned(structured=False)[0].eval()
    gate, change = layer.diff_pruning_gate["default"], layer.diff_pruning_change["default"]
    for value, opened in ((-5.0, 0.0), (5.0, 1.0), (0.5, 3 / (1 + math.exp(-0.5)) - 1.5)):
        nn.init.constant_(gate, value)
        torch.testing.assert_close(layer.deltas("default")["weight"], change * opened)


def test_training_samples_the_gates() -> None:
    layer = pruned(start=0.5)[0].train()
    first, second = (layer.deltas("default")["weight"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("structured", [True, False])
def test_the_penalty_is_the_expected_number_of_nonzero_changes(structured: bool) -> None:
    model = pruned(structured=structured, start=0.7, sparsity_penalty=0.01)
    penalty = sparsity_penalty(model)
    model.train()
    samples = 300
    nonzero = sum(int(layer.deltas("default")["weight"].count_nonzero()) for layer in model for _ in range(samples))
    assert penalty.item() == pytest.approx(0.01 * nonzero / samples, rel=0.1)
    penalty.backward()
    assert all(layer.diff_pruning_gate["default"].grad.min() > 0 for layer in model)


def test_the_models_loss_holds_the_penalty_in_training_only(bert: Any) -> None:
    config = DiffPruningConfig(target_modules=bert.names("feed_forward"), sparsity_penalty=1.0, task_type="SEQ_CLS")
    model = get_peft_model(bert.build(), config)
    labels = torch.tensor([0, 1])
    plain = model.eval()(**bert.inputs, labels=labels).loss
    model.train()
    model.base_model.model.eval()
    with_penalty = model(**bert.inputs, labels=labels).loss
    torch.testing.assert_close(with_penalty - plain, sparsity_penalty(model), rtol=1e-4, atol=0)


def test_fixing_keeps_the_largest_changes_for_good() -> None:
    model = pruned().eval()
    changes = [layer.deltas("default")["weight"].detach() for layer in model]
    everything = torch.cat([change.abs().flatten() for change in changes]).sort(descending=True).values
    assert fix_mask(model, density=0.25) == 15 == kept_weights(model)
    for layer, change in zip(model, changes, strict=True):
        kept = change.abs() >= everything[14]
        torch.testing.assert_close(layer.deltas("default")["weight"], change * kept)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model.train()(torch.randn(3, 8)).square().sum().backward()
        optimizer.step()
    assert kept_weights(model) == 15


def test_bad_requests_are_refused() -> None:
    with pytest.raises(CandidateError, match="density"):
        fix_mask(pruned(), density=0)
    with pytest.raises(PlacementError, match="no diff called 'other'"):
        sparsity_penalty(pruned(), "other")
    with pytest.raises(CandidateError, match="lower must be below 0"):
        DiffPruningConfig(target_modules=["0"], lower=0.1)
    with pytest.raises(CandidateError, match="sparsity_penalty"):
        DiffPruningConfig(target_modules=["0"], sparsity_penalty=-1.0)
