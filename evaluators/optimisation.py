"""The optimiser, the schedule and the loss that every candidate is trained with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evaluators.attach import Attached


def build_optimiser(attached: Attached) -> torch.optim.AdamW:
    """Return AdamW with a group for each part and for the head; weight decay on matrices only."""
    recipe = attached.candidate.recipe
    rates = (*recipe.learning_rates, recipe.head_learning_rate)
    groups = []
    for parameters, rate in zip((*attached.parts, attached.head), rates, strict=True):
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        others = [parameter for parameter in parameters if parameter.ndim < 2]
        groups.append({"params": matrices, "lr": rate, "weight_decay": recipe.weight_decay})
        groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]], foreach=False)


def build_schedule(optimiser: torch.optim.Optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a linear rise over the first `warmup` share of the steps, then a linear fall to 0."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def loss_of(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy. Shapes: logits [batch, classes], labels [batch]."""
    return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def update(
    attached: Attached,
    optimiser: torch.optim.Optimizer,
    loss: Tensor,
    max_grad_norm: float,
    before_freeing: Callable[[], None] = lambda: None,
) -> Tensor:
    """Go one step down the gradient of `loss`, and free the gradients. Returns their norm before it was cut.

    `before_freeing` is called after the step, while the gradients are still there.
    """
    loss.backward()
    norm = nn.utils.clip_grad_norm_(attached.trainable, max_grad_norm, foreach=False)
    optimiser.step()
    before_freeing()
    optimiser.zero_grad(set_to_none=True)
    return norm
