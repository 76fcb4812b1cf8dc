"""A forest over all methods at once, learning from every rung, and expected hypervolume improvement.

One ensemble of extremely randomized trees (Geurts et al. 2006) predicts each objective that has to be measured from
what every candidate has: its methods, places, layers, learning rates and costs. So one method teaches about another. A
candidate that was stopped at a rung teaches too: it counts as what it had there and the mean of what those trained to
the end gained from there on. What is known before training (parameters, bytes) is not predicted but taken. Of a pool of
new candidates the one is proposed whose predictions, one for each tree, add most volume to the front on average
(Emmerich et al. 2006); with one objective that is expected improvement. Costs count by their logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log10
from statistics import NormalDist
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from evaluators.score import METRICS
from orchestrator.dominance import non_dominated
from orchestrator.samplers import derived_seed
from orchestrator.spec import Objective
from orchestrator.storage import Trial
from search_space.candidate import Candidate
from search_space.features import features

FloatArray = NDArray[np.float64]
FloatMatrix = NDArray[np.float32]
_TREES = 64
_QUANTILES = np.array([NormalDist().inv_cdf((at + 0.5) / _TREES) for at in range(_TREES)])
_MOST_ROWS = 800
_LEAST_TRIALS, _LEAST_ROWS = 4, 2


@dataclass(frozen=True)
class Option:
    """A candidate that could be proposed, in numbers.

    Attributes:
        numbers: Named numbers of the candidate, the logarithms of its costs among them.
        costs: What is known of it before training, by metric: trainable parameters, and objectives.
    """

    numbers: dict[str, float]
    costs: Mapping[str, float]

    @classmethod
    def of(cls, candidate: Candidate, n_layers: int, costs: Mapping[str, float]) -> Option:
        """Return a candidate in numbers."""
        logs = {f"log {name}": log10(max(1.0, value)) for name, value in costs.items()}
        return cls(features(candidate, n_layers) | logs, costs)


class _Columns:
    """Puts named numbers into the columns of a matrix, in an order that follows from the names alone."""

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        names = sorted(set().union(*rows))
        self._places = {name: at for at, name in enumerate(names)}

    def matrix(self, rows: Sequence[Mapping[str, float]]) -> FloatMatrix:
        """Return the rows, what a row does not have as 0.

        Shape [rows, columns], in the layout that trees are fitted to without a copy.
        """
        found = np.zeros((len(rows), len(self._places)), dtype=np.float32)
        for at, row in enumerate(rows):
            found[at, [self._places[name] for name in row]] = list(row.values())
        return found


@dataclass
class Forest:
    """Ranks options by what they promise.

    Attributes:
        objectives: What is searched for.
        worst: The reference point: the worst value of each objective that counts.
        n_layers: Layers of the model.
    """

    objectives: Sequence[Objective]
    worst: Mapping[str, float]
    n_layers: int
    _numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    _values: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def ranked(self, options: Sequence[Option], trials: Sequence[Trial], seed: int) -> list[int]:
        """Return the options' positions, the most promising first; none while there is too little to learn from.

        Args:
            options: What could be tried, at least one, with the same costs each.
            trials: What was tried, in order; running ones count by what they promise.
            seed: Seed of this proposal.
        """
        learnt = [one for one in trials if one.scores and one.cost is not None]
        measured = [one.metric for one in self.objectives if one.metric not in options[0].costs]
        if len(learnt) < _LEAST_TRIALS:
            return []
        costs = list(options[0].costs)
        recent, running = learnt[-_MOST_ROWS:], [one for one in learnt if one.state == "running"]
        rows, on_the_way = ([self._row(one, costs) for one in some] for some in (recent, running))
        columns = _Columns([*rows, *on_the_way, *(one.numbers for one in options)])
        asked = columns.matrix([one.numbers for one in options])
        unfinished = columns.matrix(on_the_way)
        promised: dict[str, FloatArray] = {}
        expected: dict[str, FloatArray] = {}
        for at, metric in enumerate(measured):
            known = [pair for pair in zip(rows, ends(recent, metric), strict=True) if pair[1] is not None]
            if len(known) < _LEAST_ROWS:
                return []
            trees = _fitted(columns.matrix([row for row, _ in known]), np.array([value for _, value in known]), seed)
            promised[metric] = _outcomes(trees, asked, derived_seed(seed, at))
            if running:
                expected[metric] = np.mean([_predicted(tree, unfinished) for tree in trees], axis=0)
        gains = self._gains(options, promised, self._front(learnt, running, expected))
        return list(map(int, np.argsort(-gains, kind="stable")))

    def _row(self, trial: Trial, costs: Sequence[str]) -> Mapping[str, float]:
        """Return the numbers of a trial's candidate; they are asked for again with each proposal."""
        key = trial.candidate.sha256
        if key not in self._numbers:
            assert trial.cost is not None
            known = trial.cost.values
            told = {name: known[name] for name in costs if name in known}
            self._numbers[key] = Option.of(trial.candidate, self.n_layers, told).numbers
        return self._numbers[key]

    def _front(
        self, learnt: Sequence[Trial], running: Sequence[Trial], expected: Mapping[str, FloatArray]
    ) -> FloatArray:
        """Return the front in the unit box, [members, objectives], lower is better; running ones as they promise."""
        done = [self._reached(one) for one in learnt if one.state == "complete"]
        hoped = [
            [
                float(expected[one.metric][at]) if one.metric in expected else trial.cost.values[one.metric]  # type: ignore[union-attr]
                for one in self.objectives
            ]
            for at, trial in enumerate(running)
        ]
        values = self._boxed(np.array([*done, *hoped], dtype=np.float64).reshape(-1, len(self.objectives)))
        inside = values[(values < 1).all(axis=1)]
        return inside[non_dominated(inside, ["minimize"] * inside.shape[1])] if len(inside) else inside

    def _reached(self, trial: Trial) -> tuple[float, ...]:
        """Return the objectives' values of a trial that ended; they are asked for again with each proposal."""
        key = trial.candidate.sha256
        if key not in self._values:
            assert trial.score is not None
            self._values[key] = tuple(trial.score.values[one.metric] for one in self.objectives)
        return self._values[key]

    def _boxed(self, values: FloatArray) -> FloatArray:
        """Return values as shares of the way from the best (0) to the reference point (1); costs by their logarithm."""
        columns = []
        for at, one in enumerate(self.objectives):
            worst, column = self.worst[one.metric], values[..., at]
            if METRICS[one.metric].on_split:
                best = 1.0 if one.direction == "maximize" else 0.0
                columns.append((column - best) / (worst - best))
            else:
                columns.append(np.log10(np.maximum(column, 1.0)) / log10(max(worst, 10.0)))
        return np.stack(columns, axis=-1)

    def _gains(self, options: Sequence[Option], promised: Mapping[str, FloatArray], front: FloatArray) -> FloatArray:
        """Return the mean gain of each option over the trees, shape [options]."""
        columns = [
            promised[one.metric]
            if one.metric in promised
            else np.broadcast_to([option.costs[one.metric] for option in options], (_TREES, len(options)))
            for one in self.objectives
        ]
        boxed = np.minimum(self._boxed(np.stack(columns, axis=-1)), 1.0)
        return np.asarray(added_volume(boxed.reshape(-1, boxed.shape[-1]), front).reshape(_TREES, -1).mean(axis=0))


def ends(trials: Sequence[Trial], metric: str) -> list[float | None]:
    """Return what each trial came to in a metric; for one that did not get to its end, what it would have come to.

    That is what it has at its last rung and the mean of what others gained from there to their end. None where nothing
    tells: the metric was not measured, or nobody who passed that rung was trained to the end.
    """
    gains: dict[float, list[float]] = {}
    for one in trials:
        if one.scores[-1].full and metric in one.scores[-1].values:
            for score in one.scores:
                if metric in score.values:
                    gains.setdefault(score.fidelity, []).append(one.scores[-1].values[metric] - score.values[metric])
    mean = {fidelity: float(np.mean(some)) for fidelity, some in gains.items()}
    last = [next((score for score in reversed(one.scores) if metric in score.values), None) for one in trials]
    return [
        score.values[metric] + mean[score.fidelity] if score is not None and score.fidelity in mean else None
        for score in last
    ]


def _fitted(numbers: FloatMatrix, values: FloatArray, seed: int) -> list[Any]:
    """Return extremely randomized trees, each fitted to a bootstrap sample.

    What scikit-learn's forest does, without its checks of every tree's parameters and input: they take most of the time
    of a forest as small as this one.
    """
    import sklearn
    from sklearn.tree import ExtraTreeRegressor

    random = np.random.RandomState(seed)
    trees = []
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        for _ in range(_TREES):
            weights = np.bincount(random.randint(0, len(values), len(values)), minlength=len(values)).astype(np.float64)
            tree = ExtraTreeRegressor(min_samples_leaf=2, max_features=0.5, random_state=random.randint(2**31 - 1))
            trees.append(tree.fit(numbers, values.reshape(-1, 1), sample_weight=weights, check_input=False))
    return trees


def _outcomes(trees: Sequence[Any], numbers: FloatMatrix, seed: int) -> FloatArray:
    """Return what each row may come to, equally likely, shape [trees, rows].

    Quantiles of a normal distribution with the mean of the trees, and with the variance between them and within their
    leaves (law of total variance; Hutter et al. 2014, section 4.3.2). What the trees say themselves never is better
    than the best that was seen, so it would promise nothing where there is one objective.
    """
    means = np.stack([_predicted(tree, numbers) for tree in trees])
    within = np.stack([tree.tree_.impurity[tree.tree_.apply(numbers)] for tree in trees])
    deviations = np.sqrt(means.var(axis=0) + within.mean(axis=0))
    quantiles = np.random.RandomState(seed).permutation(_QUANTILES)  # in another order for each objective
    return np.asarray(means.mean(axis=0) + deviations * quantiles[:, None])


def _predicted(tree: Any, numbers: FloatMatrix) -> FloatArray:
    return np.asarray(tree.tree_.predict(numbers)).reshape(-1)


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
    stairs = front[np.argsort(front[:, 0])]
    left = np.concatenate([[0.0], stairs[:, 0]])
    right = np.concatenate([stairs[:, 0], [1.0]])
    top = np.concatenate([[1.0], stairs[:, 1]])
    widths = np.clip(right - np.maximum(points[:, :1], left), 0.0, None)
    heights = np.clip(top - points[:, 1:], 0.0, None)
    return np.asarray((widths * heights).sum(axis=1))


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the trials before there is enough to learn from: independent uniform draws."""
    return optuna.samplers.RandomSampler(seed=seed)
