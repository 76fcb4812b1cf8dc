"""Early stopping over several objectives: asynchronous successive halving, ranked by non-domination.

At a rung a candidate goes on when it is among the best 1 / eta of those that reached the rung, itself included
(Li et al. 2020, arXiv:1810.05934; several objectives with epsilon-net ties: Schmucker et al. 2021, arXiv:2106.12639),
or when none of them dominates it.

Shares of right answers stand still early in training and then jump; the loss falls from the first step on. So where the
objective is such a share, rungs look at the calibrated loss in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.score import METRICS, Direction, Score
from orchestrator.dominance import FloatArray, is_among_first, non_dominated
from orchestrator.rungs import DEVIATIONS, Rungs
from orchestrator.spec import EarlyStopping, Objective

_EARLY = {"accuracy": "calibrated_nll", "macro_f1": "calibrated_nll", "worst_subgroup_accuracy": "worst_subgroup_nll"}
"""What a rung looks at in place of a metric."""


class Halving(Rungs):
    """Rungs at which a share of those that reached them goes on.

    What is not known cannot be dominated: where an objective is measured only after full training (training time,
    energy, calibrated errors), every trial goes on at earlier rungs. So do the first `grace` that reach a rung.
    """

    def __init__(self, spec: EarlyStopping, objectives: Sequence[Objective], full: int) -> None:
        super().__init__(spec, objectives, full)
        self._eta, self._grace = spec.eta, spec.grace

    def is_kept(self, number: int, score: Score) -> bool:
        """Whether a trial with this score is among the best of its rung, or dominated by none."""
        rung = {one: passed for one, passed in self._at_rung(score).items() if self._tells(passed)}
        looks = self._looks(list(rung.values()))
        if number not in rung or len(rung) <= self._grace or not looks:
            return True
        values = np.array([[one.values[metric] for metric in looks] for one in rung.values()])
        directions, place = list(looks.values()), list(rung).index(number)
        if self._among_best(values, place, directions):
            return True
        errors = np.array([score.errors.get(metric, 0.0) for metric in looks])
        values[place] += DEVIATIONS * errors * [1.0 if one == "maximize" else -1.0 for one in directions]
        return bool(errors.any()) and self._among_best(values, place, directions)

    def _tells(self, score: Score) -> bool:
        """Whether every objective is known, or what is looked at in its place."""
        return all(one.metric in score.values or _early(one.metric) in score.values for one in self.objectives)

    def _looks(self, scores: Sequence[Score]) -> dict[str, Direction]:
        """Return what tells scores of a rung apart: metrics that all of them have, and which way is better."""
        looks: dict[str, Direction] = {}
        for one in self.objectives:
            early = _early(one.metric)
            chosen = early if all(early in score.values for score in scores) else one.metric
            if all(chosen in score.values for score in scores):
                looks[chosen] = one.direction if chosen == one.metric else METRICS[chosen].direction
        return looks

    def _among_best(self, values: FloatArray, place: int, directions: Sequence[Direction]) -> bool:
        kept = math.ceil(len(values) / self._eta)
        return bool(non_dominated(values, directions)[place]) or is_among_first(place, kept, values, directions)


def _early(metric: str) -> str:
    """Return what a rung looks at in place of a metric."""
    base, *task = metric.split("/")
    return "/".join([_EARLY.get(base, base), *task])
