"""The rungs of a study: when its candidates are looked at before the end of their training, and who goes on.

Three rules, `search.early_stopping.rule`. None waits for others, and a candidate goes on with the state that it has: no
step is done twice. A rung may look at some rows of validation only. Then a score has an error, and both take the
better end of its interval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from evaluators.score import Score
from orchestrator.spec import EarlyStopping, Objective

DEVIATIONS = 1.2816
"""How far an interval reaches, in standard errors: by chance alone one in ten lies beyond it on the better side."""


class Rungs(ABC):
    """Who passed which rung with which score.

    Attributes:
        steps: Training steps of the rungs, rising; the last is full training.
        objectives: What is searched for.
    """

    def __init__(self, spec: EarlyStopping, objectives: Sequence[Objective], full: int) -> None:
        self.steps = spec.steps(full)
        self.objectives = tuple(objectives)
        self._passed: dict[int, dict[int, Score]] = {step: {} for step in self.steps}
        self._outside: set[int] = set()

    def record(self, number: int, score: Score, *, feasible: bool = True) -> None:
        """Note that a trial reached a rung; scores at other fidelities are ignored.

        Args:
            number: Of the trial.
            score: What it has there.
            feasible: Whether it keeps the budgets at its end.
        """
        if self._rung(score) in self._passed:
            self._passed[self._rung(score)][number] = score
        if score.full and not feasible:
            self._outside.add(number)

    def goes_on(self, number: int, score: Score) -> bool:
        """Record a score and say whether its trial goes on beyond this rung; nobody does after the last."""
        self.record(number, score)
        return not score.full and self.is_kept(number, score)

    def pauses(self, score: Score) -> bool:
        """Whether a trial that has this score at a rung waits there, to go on later."""
        return False

    @abstractmethod
    def is_kept(self, number: int, score: Score) -> bool:
        """Whether a trial with this score, which is recorded, goes on."""

    def _at_rung(self, score: Score) -> dict[int, Score]:
        """Return who passed the rung of a score, by number; nobody where there is no rung."""
        return self._passed.get(self._rung(score), {})

    def _at_end(self) -> dict[int, Score]:
        return self._passed[self.steps[-1]]

    def _rung(self, score: Score) -> int:
        """Return the study's step that a score stands for: a candidate with a shorter training has done fewer."""
        return round(score.fidelity * self.steps[-1])
