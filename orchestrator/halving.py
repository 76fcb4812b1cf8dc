"""Early stopping over several objectives: asynchronous successive halving, ranked by non-domination.

At a rung a candidate goes on when it is among the best 1 / eta of those that reached the rung, itself included
(Li et al. 2020, arXiv:1810.05934; several objectives with epsilon-net ties: Schmucker et al. 2021, arXiv:2106.12639).
It never waits for others, and it goes on with the state that it has: no step is done twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.score import Score
from orchestrator.dominance import order
from orchestrator.spec import EarlyStopping, Objective


class Halving:
    """The rungs of a study and who passed them.

    Attributes:
        steps: Training steps of the rungs, rising; the last is full training.
    """

    def __init__(self, spec: EarlyStopping, objectives: Sequence[Objective], full: int) -> None:
        self.steps = spec.steps(full)
        self._eta, self._grace = spec.eta, spec.grace
        self._metrics = [objective.metric for objective in objectives]
        self._directions = [objective.direction for objective in objectives]
        self._passed: dict[int, dict[int, list[float]]] = {step: {} for step in self.steps}

    def record(self, number: int, score: Score) -> None:
        """Note that a trial reached a rung; scores at other steps are ignored."""
        if score.step in self._passed:
            self._passed[score.step][number] = [score[metric] for metric in self._metrics]

    def goes_on(self, number: int, score: Score) -> bool:
        """Record a score and say whether its trial goes on beyond this rung."""
        self.record(number, score)
        if score.step not in self._passed:
            return score.step < self.steps[-1]
        if score.step >= self.steps[-1]:
            return False
        rung = self._passed[score.step]
        if len(rung) <= self._grace:
            return True
        numbers = list(rung)
        best = order(np.array([rung[one] for one in numbers]), self._directions)
        kept = math.ceil(len(numbers) / self._eta)
        return numbers.index(number) in best[:kept]
