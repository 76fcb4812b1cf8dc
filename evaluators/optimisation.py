"""The optimiser, the schedule and the loss that every candidate is trained with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evaluators.attach import Attached
from evaluators.hooks import hooks_of
from search_space.candidate import Recipe


def build_optimiser(attached: Attached) -> torch.optim.AdamW:
    """Return AdamW with a group for each pace of each part and for the head; weight decay on matrices only."""
    recipe = attached.candidate.recipe
    names = {id(parameter): name for name, parameter in attached.model.named_parameters()}
    paces = [
        [hook.pace(names[id(parameter)]) for parameter in part]
        for hook, part in zip(hooks_of(attached).each, attached.parts, strict=True)
    ]
    groups = []
    for parameters, rate, pace in zip(
        (*attached.parts, attached.head),
        (*recipe.learning_rates, recipe.head_learning_rate),
        (*paces, [1.0] * len(attached.head)),
        strict=True,
    ):
        for factor in sorted(set(pace)):
            chosen = [parameter for parameter, own in zip(parameters, pace, strict=True) if own == factor]
            matrices = [parameter for parameter in chosen if parameter.ndim >= 2]
            others = [parameter for parameter in chosen if parameter.ndim < 2]
            groups.append({"params": matrices, "lr": rate * factor, "weight_decay": recipe.weight_decay})
            groups.append({"params": others, "lr": rate * factor, "weight_decay": 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]], foreach=False)


def build_schedule(optimiser: torch.optim.Optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a linear rise over the first `warmup` share of the steps, then a linear fall to 0."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def loss_of_recipe(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Return the training loss of a batch: `loss_of`, on mixed examples where the recipe has mixup.

    senMixup (Guo, Mao & Zhang 2019, arXiv:1905.08941): in each batch the last hidden states and the labels of pairs
    are mixed with one weight from Beta(a, a). The last layer of a classifier is affine, so that mixing its outputs is
    the same as mixing its inputs, whatever the architecture.
    """
    if not recipe.mixup:
        return loss_of(logits, labels, recipe.label_smoothing)
    weight = torch.distributions.Beta(recipe.mixup, recipe.mixup).sample().to(logits.device)
    partners = torch.randperm(len(labels)).to(labels.device)
    targets = nn.functional.one_hot(labels, logits.shape[1]).float()
    mixed = [torch.lerp(one[partners], one, weight) for one in (logits.float(), targets)]
    return nn.functional.cross_entropy(mixed[0], mixed[1], label_smoothing=recipe.label_smoothing)


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
    return descend(attached, optimiser, max_grad_norm, before_freeing)


def descend(
    attached: Attached,
    optimiser: torch.optim.Optimizer,
    max_grad_norm: float,
    before_freeing: Callable[[], None] = lambda: None,
) -> Tensor:
    """Go one step down the gradients that are there, and free them: `update` without the way back."""
    norm = nn.utils.clip_grad_norm_(attached.trainable, max_grad_norm, foreach=False)
    optimiser.step()
    before_freeing()
    optimiser.zero_grad(set_to_none=True)
    return norm
