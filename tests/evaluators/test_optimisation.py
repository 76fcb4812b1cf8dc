"""The training loss of a recipe: plain, smoothed, mixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.optimisation import loss_of, loss_of_recipe
from search_space.candidate import Recipe

LABELS = torch.tensor([0, 2, 1, 2, 0, 1, 1, 0])


def test_without_mixup_it_is_the_plain_loss_and_draws_nothing() -> None:
    logits = torch.randn(8, 3)
    before = torch.get_rng_state()
    loss = loss_of_recipe(logits, LABELS, Recipe((1e-3,), label_smoothing=0.1))
    assert torch.equal(loss, loss_of(logits, LABELS, 0.1))
    assert torch.equal(torch.get_rng_state(), before)


def test_mixing_the_outputs_of_the_last_layer_is_mixing_its_inputs() -> None:
    """senMixup as published mixes what goes into the last layer."""
    head, hidden = nn.Linear(5, 3), torch.randn(8, 5)
    torch.manual_seed(7)
    loss = loss_of_recipe(head(hidden), LABELS, Recipe((1e-3,), mixup=0.4))
    torch.manual_seed(7)
    weight = torch.distributions.Beta(0.4, 0.4).sample()
    partners = torch.randperm(8)
    logits = head(weight * hidden + (1 - weight) * hidden[partners])
    expected = weight * loss_of(logits, LABELS, 0.0) + (1 - weight) * loss_of(logits, LABELS[partners], 0.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixing_goes_with_smoothing_and_has_a_gradient() -> None:
    logits = torch.randn(8, 3, requires_grad=True)
    torch.manual_seed(1)
    smooth = loss_of_recipe(logits, LABELS, Recipe((1e-3,), mixup=1.0, label_smoothing=0.2))
    torch.manual_seed(1)
    assert smooth.item() != loss_of_recipe(logits, LABELS, Recipe((1e-3,), mixup=1.0)).item()
    smooth.backward()
    assert logits.grad is not None
    assert logits.grad.abs().min() > 0
