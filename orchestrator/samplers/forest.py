"""A forest over all methods at once, learning from every rung, and expected hypervolume improvement.

One ensemble of extremely randomized trees (Geurts et al. 2006) predicts each objective that has to be measured from
what every candidate has: its methods, places, layers, learning rates and costs. So one method teaches about another. A
candidate that was stopped at a rung teaches too: it counts as what it had there and the mean of what those trained to
the end gained from there on. What is known before training (parameters, bytes) is not predicted but taken. Of a pool of
new candidates the one is proposed whose predictions, one for each tree, add most volume to the front on average
(Emmerich et al. 2006); with one objective that is expected improvement. Costs count by their logarithm.
What speaks against a candidate is in `orchestrator/odds.py`.
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

from evaluators.score import METRICS
from orchestrator.dominance import non_dominated
from orchestrator.front import is_feasible
from orchestrator.odds import Odds, telling_failures
from orchestrator.samplers import derived_seed
from orchestrator.spec import Objective
from orchestrator.storage import Trial
from orchestrator.trees import Columns, FloatArray, FloatMatrix, fitted, measured, moments, predicted
from search_space.candidate import Candidate
from search_space.features import features

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


@dataclass
class Forest:
    """Ranks options by what they promise.

    Attributes:
        objectives: What is searched for.
        worst: The reference point: the worst value of each objective that counts.
        n_layers: Layers of the model.
        limits: Hard limits by metric.
    """

    objectives: Sequence[Objective]
    worst: Mapping[str, float]
    n_layers: int
    limits: Mapping[str, float] = field(default_factory=dict)
    _numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    _values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    _within: dict[str, bool] = field(default_factory=dict)

    def ranked(self, options: Sequence[Option], trials: Sequence[Trial], seed: int) -> list[int]:
        """Return the options' positions, the most promising first; none while there is too little to learn from.

        Args:
            options: What could be tried, at least one, with the same costs each.
            trials: What was tried, in order; running ones count by what they promise.
            seed: Seed of this proposal.
        """
        learnt = [one for one in trials if one.scores and one.cost is not None]
        if len(learnt) < _LEAST_TRIALS:
            return []
        costs, ended = list(options[0].costs), telling_failures(trials)
        recent, running = learnt[-_MOST_ROWS:], [one for one in learnt if one.state == "running"]
        rows, on_the_way, settled = ([self._row(one, costs) for one in some] for some in (recent, running, ended))
        offered = [one.numbers for one in options]
        columns = Columns([*rows, *on_the_way, *settled, *offered])
        known, unfinished, asked = (columns.matrix(some) for some in (rows, on_the_way, offered))
        promised: dict[str, FloatArray] = {}
        expected: dict[str, FloatArray] = {}
        for at, metric in enumerate(one.metric for one in self.objectives if one.metric not in costs):
            places, values = measured(ends(recent, metric, learnt))
            if len(places) < _LEAST_ROWS:
                return []
            trees = fitted(known[places], values, seed, _TREES)
            promised[metric] = _outcomes(trees, asked, derived_seed(seed, at))
            if running:
                expected[metric] = predicted(trees, unfinished).mean(axis=0)
        odds = Odds.learnt(
            known, {metric: ends(recent, metric, learnt) for metric in self.limits if metric not in costs}, self.limits,
            columns.matrix(settled), [one.state == "failed" for one in ended], seed,
        )  # fmt: skip
        done = [one for one in learnt if one.state == "complete" and self._is_within(one)]
        box = _Box(self.objectives, self.worst, _least(self.objectives, self.worst, learnt, options))
        front = self._front(box, done, running, expected, odds.keeps(unfinished))
        gains = self._gains(box, options, promised, front)
        worth = odds.weighed(gains, asked, nothing_kept=not done)
        return list(map(int, np.argsort(-worth, kind="stable")))

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
        self, box: _Box, done: Sequence[Trial], running: Sequence[Trial], expected: Mapping[str, FloatArray],
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
        reached = [self._reached(one) for one in done]
        values = box.of(np.array([*reached, *hoped], dtype=np.float64).reshape(-1, len(self.objectives)))
        inside = values[(values < 1).all(axis=1)]
        return inside[non_dominated(inside, ["minimize"] * inside.shape[1])] if len(inside) else inside

    def _reached(self, trial: Trial) -> tuple[float, ...]:
        """Return the objectives' values of a trial that ended; they are asked for again with each proposal."""
        key = trial.candidate.sha256
        if key not in self._values:
            assert trial.score is not None
            self._values[key] = tuple(trial.score.values[one.metric] for one in self.objectives)
        return self._values[key]

    def _is_within(self, trial: Trial) -> bool:
        """Return whether a trial that ended keeps every limit; it is asked for again with each proposal."""
        key = trial.candidate.sha256
        if key not in self._within:
            self._within[key] = is_feasible(trial, self.limits)
        return self._within[key]

    def _gains(
        self, box: _Box, options: Sequence[Option], promised: Mapping[str, FloatArray], front: FloatArray
    ) -> FloatArray:
        """Return the mean gain of each option over the trees, shape [options]."""
        columns = [
            promised[one.metric]
            if one.metric in promised
            else np.broadcast_to([option.costs[one.metric] for option in options], (_TREES, len(options)))
            for one in self.objectives
        ]
        boxed = np.minimum(box.of(np.stack(columns, axis=-1)), 1.0)
        return np.asarray(added_volume(boxed.reshape(-1, boxed.shape[-1]), front).reshape(_TREES, -1).mean(axis=0))


@dataclass(frozen=True)
class _Box:
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


def _least(
    objectives: Sequence[Objective], worst: Mapping[str, float], learnt: Sequence[Trial], options: Sequence[Option]
) -> dict[str, float]:
    """Return where the axis of each cost begins, by metric: a decade below the least that is known of any candidate.

    Nothing that is proposed is far below that, and what is seen then differs, whatever the unit. A candidate may have
    one parameter, so counts begin there.
    """
    found = {}
    for one in objectives:
        if not METRICS[one.metric].on_split and METRICS[one.metric].unit != "parameters":
            seen = [option.costs[one.metric] for option in options if one.metric in option.costs]
            seen += [trial.scores[-1][one.metric] for trial in learnt if one.metric in trial.scores[-1].values]
            found[one.metric] = min([worst[one.metric], *(value for value in seen if value > 0)]) / 10.0
    return found


def ends(trials: Sequence[Trial], metric: str, told: Sequence[Trial] | None = None) -> list[float | None]:
    """Return what each trial came to in a metric; for one that did not get to its end, what it would have come to.

    That is what it has at its last rung and the mean of what others gained from there to their end. None where nothing
    tells: the metric was not measured, or nobody who passed that rung was trained to the end.

    Args:
        trials: With scores.
        metric: Its name.
        told: Whose gains count; those of the trials themselves when None.
    """
    gains: dict[float, list[float]] = {}
    for one in trials if told is None else told:
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


def _outcomes(trees: Sequence[Any], numbers: FloatMatrix, seed: int) -> FloatArray:
    """Return what each row may come to, equally likely, shape [trees, rows].

    Quantiles of a normal distribution with the moments of the trees. What the trees say themselves never is better than
    the best that was seen, so it would promise nothing where there is one objective.
    """
    means, deviations = moments(trees, numbers)
    quantiles = np.random.RandomState(seed).permutation(_QUANTILES)  # in another order for each objective
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
