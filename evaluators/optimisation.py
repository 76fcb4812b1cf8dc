"""The optimiser, the schedule and the loss that every candidate is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.attach import Attached
from evaluators.hooks import hooks_of
from search_space.candidate import Recipe


class Optimiser(torch.optim.AdamW):
    """AdamW that steps in float32, whatever the type of what is trained.

    A parameter of a lower precision has a master: a float32 copy that the steps are made on and that it is rounded
    from after each. Without it, a step smaller than the last bit of a weight would be lost (Micikevicius et al. 2018,
    arXiv:1710.03740, section 3.1).

    Attributes:
        stepped: What steps are made on, in the order of what is trained: the parameter itself, or its master.
    """

    def __init__(self, trainable: Iterable[nn.Parameter], groups: Iterable[dict[str, Any]]) -> None:
        pairs = [(parameter, _stepped(parameter)) for parameter in trainable]
        stepped = {id(parameter): one for parameter, one in pairs}
        taken = [group | {"params": [stepped[id(one)] for one in group["params"]]} for group in groups]
        self.stepped = [one for _, one in pairs]
        self._masters = [(parameter, one) for parameter, one in pairs if one is not parameter]
        super().__init__([group for group in taken if group["params"]], foreach=False)

    @property
    def tensors(self) -> list[Tensor]:
        """What it holds beside the model: masters and state."""
        return list(self.kept().values())

    def kept(self) -> dict[str, Tensor]:
        """Return masters and state by what they are and of which parameter, told by its place in `stepped`."""
        places = {id(one): at for at, one in enumerate(self.stepped)}
        masters = {f"master.{places[id(master)]}": master.detach() for _, master in self._masters}
        return masters | {f"{what}.{places[id(one)]}": v for one, own in self.state.items() for what, v in own.items()}

    @torch.no_grad()
    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Before the first step, go on from what the `kept` of one with the same parameters returned."""
        for name, value in kept.items():
            what, _, at = name.partition(".")
            one = self.stepped[int(at)]
            if what == "master":
                one.copy_(value)
            elif what == "step":  # which AdamW counts on the CPU
                self.state[one][what] = value
            else:
                self.state[one][what] = torch.empty_like(one).copy_(value)

    def gather(self) -> None:
        """After the way back of one part of a step: add its gradients to those of the parts before, in float32."""
        self._add_up()
        for rounded, _ in self._masters:
            rounded.grad = None

    def update(self, loss: Tensor, max_grad_norm: float, before_freeing: Callable[[], bool] = lambda: False) -> Tensor:
        """Go one step down the gradient of `loss`: its way back, then `descend`."""
        loss.backward()
        return self.descend(max_grad_norm, before_freeing)

    def descend(self, max_grad_norm: float, before_freeing: Callable[[], bool] = lambda: False) -> Tensor:
        """Go one step down the gradients that are there, and free them. Returns their norm before it was cut.

        Args:
            max_grad_norm: Longer gradients are cut to this.
            before_freeing: Called after the step, while the gradients are still there; returns whether it wrote into
                weights.
        """
        self._add_up()
        norm = nn.utils.clip_grad_norm_(self.stepped, max_grad_norm, foreach=False)
        self.step()
        self._round()
        if before_freeing():
            self._take_over()
        for one in (*self.stepped, *(rounded for rounded, _ in self._masters)):
            one.grad = None
        return norm

    def _add_up(self) -> None:
        for rounded, master in self._masters:
            if rounded.grad is not None and master.grad is not None:
                master.grad += rounded.grad
            elif rounded.grad is not None:
                master.grad = rounded.grad.to(master.dtype)

    @torch.no_grad()
    def _round(self) -> None:
        for rounded, master in self._masters:
            rounded.copy_(master)
            if rounded.grad is not None and master.grad is not None:
                rounded.grad.copy_(master.grad)

    @torch.no_grad()
    def _take_over(self) -> None:
        """Take into the masters what a method wrote into the weights."""
        for rounded, master in self._masters:
            written = rounded != master.to(rounded.dtype)
            master.copy_(torch.where(written, rounded.to(master.dtype), master))


def stepped_as_it_is(parameter: nn.Parameter) -> bool:
    """Whether steps are made on a parameter itself, not on a master."""
    return torch.finfo(parameter.dtype).bits >= torch.finfo(torch.float32).bits


def _stepped(parameter: nn.Parameter) -> nn.Parameter:
    """Return what steps are made on: the parameter, or its master."""
    if stepped_as_it_is(parameter):
        return parameter
    return nn.Parameter(parameter.detach().to(torch.float32))


def build_optimiser(attached: Attached) -> Optimiser:
    """Return AdamW with a group for each pace of each part and for the head; weight decay on matrices only."""
    recipe = attached.candidate.recipe
    names = {id(parameter): name for name, parameter in attached.model.named_parameters()}
    paces = [
        [hook.pace(names[id(parameter)]) for parameter in part]
        for hook, part in zip(hooks_of(attached).each, attached.parts, strict=True)
    ]
    groups: list[dict[str, Any]] = []
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
    return Optimiser(attached.trainable, groups)


def build_schedule(
    optimiser: torch.optim.Optimizer, steps: int, warmup: float, made: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a linear rise over the first `warmup` share of the steps, then a linear fall to 0.

    Args:
        optimiser: Whose learning rates it sets.
        steps: Of full training.
        warmup: Share of them.
        made: Steps that were made already; where there are some, the optimiser has had such a schedule before.
    """
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor, last_epoch=made - 1)


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
