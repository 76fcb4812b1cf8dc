"""The hook of one part: what training tells it, and what it answers where its method needs nothing.

`evaluators.hooks` has those that do something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from search_space.candidate import Part

Losses = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Schooling:
    """What training tells the hooks before its first step.

    Attributes:
        steps: Optimiser steps of full training.
        batches: A few batches of training data, for methods that look at them first.
        loss_of: The loss of a model on one of those batches.
    """

    steps: int
    batches: Iterable[Any]
    loss_of: Losses


class Hook(Protocol):
    """What one part needs in training. A hook changes its own part and nothing else."""

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Prepare before the first step, the optimiser not made yet. Returns new parameters by the id of the old."""

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the loss, if any."""

    def pace(self, name: str) -> float:
        """Return what the part's learning rate is multiplied by for the parameter of this name."""

    def after_step(self, step: int) -> bool:
        """Act after optimiser step number `step`, from 1 on; gradients are there. Returns if it wrote into weights."""

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Take the shapes of a saved state before it is loaded."""

    def assume(self) -> None:
        """Stand as if training had begun, without data: for predictions from shapes."""

    def kept(self) -> dict[str, Tensor]:
        """Return what it has learnt since `begin` that is no tensor of the model's, by name."""

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """After `begin`, go on from what `kept` returned."""


class NoHook:
    """The hook of methods that need none, and the base of the others."""

    def __init__(self, model: nn.Module, name: str, part: Part) -> None:
        self._model, self._name, self._part = model, name, part

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Change nothing."""
        return {}

    def penalty(self) -> Tensor | None:
        """Add nothing."""
        return None

    def pace(self, name: str) -> float:
        """Leave the learning rate as it is."""
        return 1.0

    def after_step(self, step: int) -> bool:
        """Do nothing."""
        return False

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Change nothing."""

    def assume(self) -> None:
        """Change nothing."""

    def kept(self) -> dict[str, Tensor]:
        """Keep nothing."""
        return {}

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Change nothing."""
