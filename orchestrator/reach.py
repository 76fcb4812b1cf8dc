"""Early stopping by what is still within reach, for one objective and for several.

What a candidate gains between a rung and the end of its training is known of those that were trained to the end. Were a
candidate at a rung to gain as much as all but a tenth of them did, where would it end? If one of them dominates even
that, it stops: a front would not have it. So a slow start is no reason to stop as long as others gained what it takes,
and no share of the candidates has to stop or to go on. (Of one objective: predictive termination, Domhan, Springenberg
& Hutter 2015, IJCAI, with the gains that were seen in the place of a model of the curve.)

Over several objectives small candidates stay on the front that end far below the best, and what starts low gains more.
So there the gains of a share of right answers are counted in its log odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evaluators.score import METRICS, Score
from orchestrator.dominance import FloatArray, oriented
from orchestrator.growing import Rows
from orchestrator.rungs import DEVIATIONS, Rungs
from orchestrator.scales import log_odds
from orchestrator.spec import EarlyStopping, Objective


class Reach(Rungs):
    """Rungs at which a candidate stops that would be dominated even if it gained more than most.

    What is not known cannot be dominated: where an objective is measured only after full training (training time,
    energy, calibrated errors), every trial goes on at earlier rungs. So do all until `grace` of them were trained to
    the end. One that then broke a budget tells what can be gained, and dominates nobody.
    """

    def __init__(self, spec: EarlyStopping, objectives: Sequence[Objective], full: int) -> None:
        super().__init__(spec, objectives, full)
        self._chance, self._grace = spec.chance, spec.grace
        self._forget()

    def record(self, number: int, score: Score, *, feasible: bool = True) -> None:
        """Note that a trial reached a rung, as `Rungs` does, and what it gained where it is at its end."""
        super().record(number, score, feasible=feasible)
        if number in self._counted:  # it was trained again, from its first rung
            self._forget()
            for one in self._at_end():
                self._count(one)
        elif score.full:
            self._count(number)

    def _forget(self) -> None:
        width = len(self.objectives)
        self._counted: set[int] = set()
        self._gains = {step: Rows(width) for step in self.steps}
        self._rivals = {step: Rows(width) for step in self.steps}

    def _count(self, number: int) -> None:
        """Keep what a trial gained from each rung to its end, and its end as one to beat if it keeps the budgets."""
        self._counted.add(number)
        end = self._at_end()[number]
        for step in self.steps:
            here = self._passed[step].get(number)
            if here is not None and self.tells(here) and self.tells(end):
                early, late = self._costs([here, end])
                self._gains[step].append(*(early - late))
                if number not in self._outside:
                    self._rivals[step].append(*late)

    def is_kept(self, number: int, score: Score) -> bool:
        """Whether no trial that was trained to the end dominates what a trial with this score may come to."""
        gains = self._gains.get(self._rung(score))
        if gains is None or not self.tells(score) or len(gains) < self._grace:
            return True
        hope = self._hope(score, gains.values)
        rivals = self._rivals[self._rung(score)].values
        return not bool(((rivals <= hope).all(axis=1) & (rivals < hope).any(axis=1)).any())

    def tells(self, score: Score) -> bool:
        """Whether a score has every objective."""
        return all(one.metric in score.values for one in self.objectives)

    def _hope(self, score: Score, gains: FloatArray) -> FloatArray:
        """Return where a candidate would end with more luck than most, less is better, shape [objectives]."""
        likely = np.quantile(gains, 1.0 - self._chance, axis=0)
        return np.asarray(self._costs([_at_good_end(score, self.objectives)])[0] - likely)

    def _costs(self, scores: Sequence[Score]) -> FloatArray:
        """Return the objectives' values so that less is better, shape [scores, objectives]."""
        looks = self.objectives
        values = np.array([[one.values[look.metric] for look in looks] for one in scores], dtype=np.float64)
        for at, look in enumerate(looks):
            if len(self.objectives) > 1 and _is_share(look):
                values[:, at] = log_odds(values[:, at])
        return oriented(values, [look.direction for look in looks])


def _at_good_end(score: Score, looks: Sequence[Objective]) -> Score:
    """Return a score with the better end of each objective's interval in place of its value."""
    better = {
        one.metric: score.values[one.metric]
        + (1 if one.direction == "maximize" else -1) * DEVIATIONS * score.errors.get(one.metric, 0.0)
        for one in looks
    }
    return replace(score, values={**score.values, **better})


def _is_share(look: Objective) -> bool:
    metric = METRICS[look.metric]
    return metric.on_split and metric.unit == "1" and metric.direction == "maximize"
