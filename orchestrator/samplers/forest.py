"""A forest over all methods at once, learning from every rung, and expected hypervolume improvement.

One ensemble of extremely randomized trees (Geurts et al. 2006) predicts each objective that has to be measured from
what every candidate has: its methods, places, layers, learning rates and costs. So one method teaches about another. A
candidate that was stopped at a rung teaches too: it counts as what it had there and the mean of what those trained to
the end gained from there on. What is known before training (parameters, bytes) is not predicted but taken. Of a pool of
new candidates the one is proposed whose predictions, one for each tree, add most volume to the front on average
(Emmerich et al. 2006); with one objective that is expected improvement, and its values are learnt by their ranks
(`orchestrator/scales.py`). Costs count by their logarithm.
What speaks against a candidate is in `orchestrator/odds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import log10
from typing import Any

import numpy as np
import optuna

from evaluators.score import METRICS, UNTRAINED, Score
from orchestrator.dominance import FloatArray, non_dominated
from orchestrator.ends import Ends
from orchestrator.front import is_feasible
from orchestrator.history import History, Told
from orchestrator.odds import Odds, telling_failures
from orchestrator.samplers import derived_seed
from orchestrator.scales import OUTCOMES, QUANTILES, scale_of
from orchestrator.spec import Objective
from orchestrator.storage import Trial
from orchestrator.trees import Columns, FloatMatrix, Numbers, fitted, measured, moments, out_of_bag, predicted
from search_space.candidate import Candidate
from search_space.features import features

_MOST_ROWS = 800
_LEAST_TRIALS, _LEAST_ROWS, _LEAST_CALIBRATED = 4, 2, 6


@dataclass(frozen=True)
class Option:
    """A candidate that could be proposed, in numbers.

    Attributes:
        numbers: Named numbers of the candidate, the logarithms of its costs among them.
        costs: What is known of it before training, by metric: trainable parameters, and objectives.
    """

    numbers: Numbers
    costs: Mapping[str, float]

    @classmethod
    def of(cls, candidate: Candidate, n_layers: int, costs: Mapping[str, float]) -> Option:
        """Return a candidate in numbers."""
        logs = {f"log {name}": log10(max(1.0, value)) for name, value in costs.items()}
        return cls(Numbers(features(candidate, n_layers) | logs), costs)


@dataclass
class Forest:
    """Ranks options by what they promise.

    Attributes:
        objectives: What is searched for.
        worst: The reference point: the worst value of each objective that counts.
        n_layers: Layers of the model.
        costs: What is known of every option before it is trained, by metric.
        limits: Hard limits by metric.
    """

    objectives: Sequence[Objective]
    worst: Mapping[str, float]
    n_layers: int
    costs: Sequence[str]
    limits: Mapping[str, float] = field(default_factory=dict)
    _options: dict[str, Option] = field(default_factory=dict)

    @cached_property
    def _history(self) -> History:
        objectives = [one.metric for one in self.objectives]
        ranked = objectives if len(objectives) == 1 else []
        gained = dict.fromkeys([*ranked, *self._limited])
        return History(objectives, list(gained), lambda trial: is_feasible(trial, self.limits))

    @property
    def _limited(self) -> list[str]:
        """Limits on what only training tells."""
        return [metric for metric in self.limits if metric not in self.costs]

    def ranked(
        self, options: Sequence[Option], trials: Sequence[Trial], seed: int, paused: Sequence[Trial] = ()
    ) -> list[int]:
        """Return positions, the most promising first; none while there is too little to learn from.

        Args:
            options: What could be tried.
            trials: What was tried, in order; running ones count by what they promise.
            seed: Seed of this proposal.
            paused: Those of the trials that could go on. Their positions come after those of the options.
        """
        told = self._history.of(trials)
        if len(told.learnt) < (_LEAST_TRIALS if len(self.objectives) == 1 else _LEAST_ROWS):
            return []
        ended, recent = telling_failures(trials), told.learnt[-_MOST_ROWS:]
        offered = [*options, *map(self._option, paused)]
        groups = [[self._option(one) for one in some] for some in (recent, told.running, ended)]
        numbers = [[one.numbers for one in some] for some in (*groups, options, offered)]
        matrix = Columns([one for some in numbers for one in some]).matrix
        lesson = Lesson(told, recent, paused, *map(matrix, (numbers[0], numbers[1], numbers[3])))
        asked, limited = matrix(numbers[4]), self._limited
        odds = Odds.learnt(
            lesson.known, {metric: ends(recent, metric, told.means(metric)) for metric in limited}, self.limits,
            matrix(numbers[2]), [one.state == "failed" for one in ended], seed,
        )  # fmt: skip
        if odds.limits and not told.reached:
            return _in_order(odds.weighed(np.zeros(len(offered)), asked, nothing_kept=True))
        learn = lesson.by_ranks if len(self.objectives) == 1 else lesson.by_courses
        promises: dict[str, Promise] = {}
        for at, metric in enumerate(one.metric for one in self.objectives if one.metric not in self.costs):
            promise = learn(metric, seed, derived_seed(seed, at))
            if promise is None:
                return []
            promises[metric] = promise
        box = Box(self.objectives, self.worst, _least(self.objectives, self.worst, told.least, offered))
        expected = {metric: one.running for metric, one in promises.items()}
        front = self._front(box, told.reached.values, told.running, expected, odds.keeps(lesson.unfinished))
        gains = expected_gains(box, offered, {metric: one.offered for metric, one in promises.items()}, front)
        return _in_order(odds.weighed(gains, asked, nothing_kept=not told.reached))

    def _option(self, trial: Trial) -> Option:
        """Return a trial's candidate as an option; they are asked for again with each proposal."""
        key = trial.candidate.sha256
        if key not in self._options:
            assert trial.cost is not None
            known = trial.cost.values
            told = {name: known[name] for name in self.costs if name in known}
            self._options[key] = Option.of(trial.candidate, self.n_layers, told)
        return self._options[key]

    def _front(
        self, box: Box, reached: FloatArray, running: Sequence[Trial], expected: Mapping[str, FloatArray],
        keeps: Sequence[bool],
    ) -> FloatArray:  # fmt: skip
        """Return the front in the unit box, [members, objectives], lower is better; running ones as they promise."""
        hoped = [
            [
                float(expected[one.metric][at]) if one.metric in expected else trial.cost.values[one.metric]  # type: ignore[union-attr]
                for one in self.objectives
            ]
            for at, trial in enumerate(running)
            if keeps[at]
        ]
        return box.front(np.concatenate([reached, np.array(hoped).reshape(-1, len(self.objectives))]))


def expected_gains(
    box: Box, options: Sequence[Option], promised: Mapping[str, FloatArray], front: FloatArray
) -> FloatArray:
    """Return what each option adds to the volume that a front dominates, the mean over its outcomes, shape [options].

    Args:
        box: Where volume is measured.
        options: What could be tried.
        promised: What they may come to, equally likely, shape [outcomes, options], by metric; other objectives are
            taken from their costs.
        front: In the box, shape [members, objectives].
    """
    outcomes_each = len(next(iter(promised.values()), [None]))
    columns = [
        promised[one.metric]
        if one.metric in promised
        else np.broadcast_to([option.costs[one.metric] for option in options], (outcomes_each, len(options)))
        for one in box.objectives
    ]
    boxed = np.minimum(box.of(np.stack(columns, axis=-1)), 1.0)
    gains = added_volume(boxed.reshape(-1, boxed.shape[-1]), front).reshape(outcomes_each, -1)
    return np.asarray(gains.mean(axis=0))


def calibrated(known: FloatMatrix, values: FloatArray, asked: FloatMatrix, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of what each row may come to, shape [asked] each.

    On few rows trees know little, and a search that trusts them looks at the same kind again and again. So what they
    say is shrunk to the mean, and spread, as the errors on the rows that each of them left out ask for.

    Args:
        known: What is learnt from, shape [rows, columns].
        values: What these came to, shape [rows].
        asked: Shape [asked, columns].
        seed: Of the trees.
    """
    trees = fitted(known, values, seed, OUTCOMES)
    means, deviations = moments(trees, asked)
    if len(values) < _LEAST_CALIBRATED:
        return means, deviations
    middle, outside = values.mean(), out_of_bag(trees, known, values)
    slope = _slope(outside - middle, values - middle)
    errors = values - middle - slope * (outside - middle)
    spread = np.sqrt((errors**2).sum() / (len(values) - 2))
    return middle + slope * (means - middle), np.full_like(means, spread)


def _slope(said: FloatArray, was: FloatArray) -> float:
    """Return by how much predictions, less the mean, are to be multiplied, from 0 to 1."""
    spread = float(said @ said)
    return min(max(float(said @ was) / spread, 0.0), 1.0) if spread > 0 else 0.0


def _in_order(worth: FloatArray) -> list[int]:
    return list(map(int, np.argsort(-worth, kind="stable")))


@dataclass(frozen=True)
class Box:
    """The unit box that volume is measured in: from the best (0) to the reference point (1).

    Attributes:
        objectives: Its axes.
        worst: The reference point, by metric.
        least: Where the axis of a cost that is no count of parameters begins, by metric.
    """

    objectives: Sequence[Objective]
    worst: Mapping[str, float]
    least: Mapping[str, float]

    def of(self, values: FloatArray) -> FloatArray:
        """Return values [..., objectives] as shares of the way from best to worst; costs by their logarithm."""
        columns = []
        for at, one in enumerate(self.objectives):
            worst, column = self.worst[one.metric], values[..., at]
            if METRICS[one.metric].on_split:
                best = 1.0 if one.direction == "maximize" else 0.0
                columns.append((column - best) / (worst - best))
            elif one.metric in self.least:
                least = self.least[one.metric]
                columns.append(np.log10(np.maximum(column, least) / least) / log10(worst / least))
            else:
                columns.append(np.log10(np.maximum(column, 1.0)) / log10(max(worst, 10.0)))
        return np.stack(columns, axis=-1)

    def front(self, values: FloatArray) -> FloatArray:
        """Return the non-dominated of values [rows, objectives] as shares, lower is better; none from outside."""
        boxed = self.of(values)
        inside = boxed[(boxed < 1).all(axis=1)]
        return inside[non_dominated(inside, ["minimize"] * inside.shape[1])] if len(inside) else inside


def _least(
    objectives: Sequence[Objective], worst: Mapping[str, float], seen: Mapping[str, float], options: Sequence[Option]
) -> dict[str, float]:
    """Return where the axis of each cost begins, by metric: a decade below the least that is known of any candidate.

    Nothing that is proposed is far below that, and what is seen then differs, whatever the unit. A candidate may have
    one parameter, so counts begin there.
    """
    found = {}
    for one in objectives:
        if not METRICS[one.metric].on_split and METRICS[one.metric].unit != "parameters":
            known = [option.costs[one.metric] for option in options if one.metric in option.costs]
            known = [value for value in known if value > 0] + ([seen[one.metric]] if one.metric in seen else [])
            found[one.metric] = min([worst[one.metric], *known]) / 10.0
    return found


def ends(trials: Sequence[Trial], metric: str, gains: Mapping[float, float]) -> list[float | None]:
    """Return what each trial came to in a metric; for one that did not get to its end, what it would have come to.

    That is what it has at its last rung and the mean of what others gained from there to their end; nothing is gained
    where training changes nothing. None where nothing tells: the metric was not measured, or nobody who passed that
    rung was trained to the end.

    Args:
        trials: With scores.
        metric: Its name.
        gains: These means, by fidelity; that of full training is 0.
    """
    found: list[float | None] = []
    for one in trials:
        last = one.scores[-1] if metric in one.scores[-1].values else _last_with(metric, one)
        gain = 0.0 if metric in UNTRAINED else gains.get(last.fidelity) if last is not None else None
        found.append(last.values[metric] + gain if last is not None and gain is not None else None)
    return found


def _last_with(metric: str, trial: Trial) -> Score | None:
    return next((score for score in reversed(trial.scores) if metric in score.values), None)


@dataclass(frozen=True)
class Promise:
    """What candidates may come to in one metric.

    Attributes:
        offered: Options, then paused trials: equally likely outcomes, shape [outcomes, offered].
        running: What running trials are expected to come to, shape [running].
    """

    offered: FloatArray
    running: FloatArray


@dataclass(frozen=True)
class Lesson:
    """What trials teach about options.

    Attributes:
        told: What the trials tell.
        recent: Those of them that the trees learn from.
        paused: Those of them that could go on.
        known: Numbers of the recent ones, shape [recent, columns].
        unfinished: Numbers of the running ones, shape [running, columns].
        options: Numbers of the options, shape [options, columns].
    """

    told: Told
    recent: Sequence[Trial]
    paused: Sequence[Trial]
    known: FloatMatrix
    unfinished: FloatMatrix
    options: FloatMatrix

    def by_ranks(self, metric: str, seed: int, draws: int) -> Promise | None:
        """Learn the one objective by its ranks; None where too few have it. Nobody pauses there.

        Args:
            metric: Of the objective.
            seed: Of the trees.
            draws: Seed of what is drawn for this objective.
        """
        places, values = measured(ends(self.recent, metric, self.told.means(metric)))
        if len(places) < _LEAST_ROWS:
            return None
        scale = scale_of(values, objectives=1)
        trees = fitted(self.known[places], scale.of(values), seed, OUTCOMES)
        running = predicted(trees, self.unfinished).mean(axis=0) if len(self.unfinished) else np.empty(0)
        return Promise(scale.back(outcomes(trees, self.options, draws)), scale.back(running))

    def by_courses(self, metric: str, seed: int, draws: int) -> Promise | None:
        """Learn one of several objectives by where others came to from the same rungs; else as `by_ranks`."""
        coming = Ends(metric, self.told.learnt).outcomes(draws)
        values = coming.mean(axis=0)
        recent = values[-len(self.recent) :]
        places = np.flatnonzero(np.isfinite(recent))
        if len(places) < _LEAST_ROWS:
            return None
        at = {one.number: place for place, one in enumerate(self.told.learnt)}
        promised = [coming[:, [at[one.number] for one in self.paused]]]
        if len(self.options):
            means, deviations = calibrated(self.known[places], recent[places], self.options, seed)
            promised.insert(0, normal_outcomes(means, deviations, draws))
        return Promise(np.hstack(promised), values[[at[one.number] for one in self.told.running]])


def outcomes(trees: Sequence[Any], numbers: FloatMatrix, seed: int) -> FloatArray:
    """Return what each row may come to, equally likely, shape [trees, rows].

    Quantiles of a normal distribution with the moments of the trees. What the trees say themselves never is better than
    the best that was seen, so it would promise nothing where there is one objective.
    """
    return normal_outcomes(*moments(trees, numbers), seed)


def normal_outcomes(means: FloatArray, deviations: FloatArray, seed: int) -> FloatArray:
    """Return the quantiles of normal distributions with some moments [rows], in one order, shape [quantiles, rows]."""
    quantiles = np.random.RandomState(seed).permutation(QUANTILES)  # in another order for each objective
    return np.asarray(means + deviations * quantiles[:, None])


def added_volume(points: FloatArray, front: FloatArray) -> FloatArray:
    """Return what each point alone adds to the volume that a front dominates in the unit box, shape [points].

    Exact for one and two objectives. For three, the mean over slices of the third.

    Args:
        points: Shape [points, objectives], in [0, 1], lower is better.
        front: Shape [members, objectives], non-dominated.
    """
    if points.shape[1] == 1:
        best = front.min() if len(front) else 1.0
        return np.maximum(best - points[:, 0], 0.0)
    if points.shape[1] == 2:
        return _added_area(points, front)
    edges = np.linspace(0.0, 1.0, 17)
    total = np.zeros(len(points))
    for low, high in pairwise(edges):
        below = front[front[:, 2] <= low][:, :2]
        kept = below[non_dominated(below, ["minimize"] * 2)] if len(below) else below
        thick = np.clip(high - np.maximum(points[:, 2], low), 0.0, None)
        total += thick * _added_area(points[:, :2], kept)
    return total


def _added_area(points: FloatArray, front: FloatArray) -> FloatArray:
    """Sum over the steps of the front's staircase what lies between a point and the stair above it."""
    stairs = front[np.lexsort((front[:, 1], front[:, 0]))]
    left = np.concatenate([[0.0], stairs[:, 0]])
    right = np.concatenate([stairs[:, 0], [1.0]])
    top = np.concatenate([[1.0], stairs[:, 1]])
    stair = np.searchsorted(left, np.maximum(points[:, 0], 0.0), side="right") - 1
    above = top[stair] > points[:, 1]  # others add nothing
    widths, heights = np.maximum(points[above, :1], left), top - points[above, 1:]
    np.maximum(np.subtract(right, widths, out=widths), 0.0, out=widths)
    widths *= np.maximum(heights, 0.0, out=heights)
    found = np.zeros(len(points))
    found[above] = widths.sum(axis=1)
    return found


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the trials before there is enough to learn from: independent uniform draws."""
    return optuna.samplers.RandomSampler(seed=seed)
