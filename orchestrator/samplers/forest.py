"""A forest over all methods at once, learning from every rung, and expected hypervolume improvement.

One ensemble of extremely randomized trees (Geurts et al. 2006) predicts each objective that has to be measured from
what every candidate has: its methods, places, layers, learning rates and costs. So one method teaches about another. A
candidate that was not trained to the end teaches too, as what it may come to (`orchestrator/ends.py`). What is known
before training (parameters, bytes) is not predicted but taken. Of a pool of new candidates, and of those that pause,
the one comes first that adds most volume to the front on average (`orchestrator/expected_volume.py`).

With one objective that is expected improvement: its values are learnt by their ranks (`orchestrator/scales.py`), who
was stopped counts with the mean gain of others, and nobody pauses. Over several objectives what the trees say is
calibrated. What speaks against a candidate is in `orchestrator/odds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from orchestrator.dominance import FloatArray
from orchestrator.ends import Ends, by_mean_gains
from orchestrator.expected_volume import Box, Option, expected_gains, least_known
from orchestrator.front import is_feasible
from orchestrator.history import History, Told
from orchestrator.odds import Odds, telling_failures
from orchestrator.samplers import derived_seed
from orchestrator.scales import OUTCOMES, QUANTILES, scale_of
from orchestrator.spec import Objective
from orchestrator.trees import Columns, FloatMatrix, fitted, measured, moments, out_of_bag, predicted
from orchestrator.trial import Trial

_MOST_ROWS = 800
_LEAST_TRIALS, _LEAST_ROWS, _LEAST_CALIBRATED = 4, 2, 6
_IN_COMMON = 0.7
"""Share of what the trees do not explain that candidates of one architecture have in common.

Of all the variance of accuracy on the project's tables it is 0.81 (27 architectures) and 0.79 (5 architectures).
"""


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
        groups = [*([self._option(one) for one in some] for some in (recent, told.running, ended)), offered]
        columns = Columns([one.numbers for some in groups for one in some])
        known, unfinished, settled, asked = (Described.of(some, columns) for some in groups)
        lesson = Lesson(told, recent, paused, known, unfinished, asked[: len(options)])
        came_to = {metric: by_mean_gains(recent, metric, told.means(metric)) for metric in self._limited}
        failed = [one.state == "failed" for one in ended]
        odds = Odds.learnt(known.numbers, came_to, self.limits, settled.numbers, failed, seed)
        if odds.limits and not told.reached:
            return _in_order(odds.weighed(np.zeros(len(offered)), asked.numbers, nothing_kept=True))
        learn = lesson.by_ranks if len(self.objectives) == 1 else lesson.by_courses
        promises: dict[str, Promise] = {}
        for at, metric in enumerate(one.metric for one in self.objectives if one.metric not in self.costs):
            promise = learn(metric, seed, derived_seed(seed, at))
            if promise is None:
                return []
            promises[metric] = promise
        box = Box(self.objectives, self.worst, least_known(self.objectives, self.worst, told.least, offered))
        expected = {metric: one.running for metric, one in promises.items()}
        front = self._front(box, told.reached.values, told.running, expected, odds.keeps(unfinished.numbers))
        gains = expected_gains(box, offered, {metric: one.offered for metric, one in promises.items()}, front)
        return _in_order(odds.weighed(gains, asked.numbers, nothing_kept=not told.reached))

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


@dataclass(frozen=True)
class Described:
    """Candidates as a model sees them.

    Attributes:
        numbers: Shape [candidates, columns].
        architectures: Identities without their recipes, shape [candidates].
    """

    numbers: FloatMatrix
    architectures: NDArray[np.str_]

    @classmethod
    def of(cls, options: Sequence[Option], columns: Columns) -> Described:
        """Return options with their numbers in some columns."""
        architectures = np.array([one.architecture for one in options], dtype=np.str_)
        return cls(columns.matrix([one.numbers for one in options]), architectures)

    def __getitem__(self, places: slice | NDArray[np.int64]) -> Described:
        """Return some of them."""
        return Described(self.numbers[places], self.architectures[places])

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Calibrated:
    """Trees that know how much they know.

    On few rows trees know little, and a search that trusts them looks at the same kind again and again. So what they
    say is shrunk to the mean, and spread, as the errors on the rows that each of them left out ask for. What they do
    not explain, candidates of one architecture have in common (best linear unbiased prediction of a random intercept;
    Robinson 1991, Statistical Science 6).

    Attributes:
        known: What is learnt from, at least two.
        values: What these came to, shape [known].
        seed: Of the trees.
    """

    known: Described
    values: FloatArray
    seed: int

    def moments(self, asked: Described) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of what each candidate may come to, shape [asked] each."""
        means, deviations = moments(self._trees, asked.numbers)
        if len(self.values) < _LEAST_CALIBRATED:
            return means, deviations
        middle, slope, errors = self._errors
        spread = np.sqrt((errors**2).sum() / (len(errors) - 2))
        alike = asked.architectures[:, None] == self.known.architectures
        count = alike.sum(axis=1)
        trust = _IN_COMMON * count / (1.0 + _IN_COMMON * (count - 1))
        intercepts = trust * (alike @ errors) / np.maximum(count, 1)
        return middle + slope * (means - middle) + intercepts, spread * np.sqrt(1.0 - _IN_COMMON * trust)

    @cached_property
    def _trees(self) -> list[Any]:
        return fitted(self.known.numbers, self.values, self.seed, OUTCOMES)

    @cached_property
    def _errors(self) -> tuple[float, float, FloatArray]:
        """The values' mean, what predictions less it are multiplied by, and the errors then, shape [known]."""
        middle, outside = self.values.mean(), out_of_bag(self._trees, self.known.numbers, self.values)
        slope = _slope(outside - middle, self.values - middle)
        return middle, slope, self.values - middle - slope * (outside - middle)


def _slope(said: FloatArray, was: FloatArray) -> float:
    """Return by how much predictions, less the mean, are to be multiplied, from 0 to 1."""
    spread = float(said @ said)
    return min(max(float(said @ was) / spread, 0.0), 1.0) if spread > 0 else 0.0


def _in_order(worth: FloatArray) -> list[int]:
    return list(map(int, np.argsort(-worth, kind="stable")))


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
        known: The recent ones.
        unfinished: The running ones.
        options: What could be tried.
    """

    told: Told
    recent: Sequence[Trial]
    paused: Sequence[Trial]
    known: Described
    unfinished: Described
    options: Described

    def by_ranks(self, metric: str, seed: int, draws: int) -> Promise | None:
        """Learn the one objective by its ranks; None where too few have it. Nobody pauses there.

        Args:
            metric: Of the objective.
            seed: Of the trees.
            draws: Seed of what is drawn for this objective.
        """
        places, values = measured(by_mean_gains(self.recent, metric, self.told.means(metric)))
        if len(places) < _LEAST_ROWS:
            return None
        scale = scale_of(values, objectives=1)
        trees = fitted(self.known.numbers[places], scale.of(values), seed, OUTCOMES)
        running = predicted(trees, self.unfinished.numbers).mean(axis=0) if len(self.unfinished) else np.empty(0)
        return Promise(scale.back(outcomes(trees, self.options.numbers, draws)), scale.back(running))

    def by_courses(self, metric: str, seed: int, draws: int) -> Promise | None:
        """Learn one of several objectives as it is, by where others came to from the same rungs.

        What runs and does not have the metric at its rung is told by the trees. Arguments and result are those of
        `by_ranks`.
        """
        coming = Ends(metric, self.told.learnt).outcomes(draws)
        values = coming.mean(axis=0)
        recent = values[-len(self.recent) :]
        places = np.flatnonzero(np.isfinite(recent))
        if len(places) < _LEAST_ROWS:
            return None
        at = {one.number: place for place, one in enumerate(self.told.learnt)}
        trees = Calibrated(self.known[places], recent[places], seed)
        promised = [coming[:, [at[one.number] for one in self.paused]]]
        if len(self.options):
            promised.insert(0, normal_outcomes(*trees.moments(self.options), draws))
        running = values[[at[one.number] for one in self.told.running]]
        if not np.isfinite(running).all():
            running = np.where(np.isfinite(running), running, trees.moments(self.unfinished)[0])
        return Promise(np.hstack(promised), running)


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


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the trials before there is enough to learn from: independent uniform draws."""
    return optuna.samplers.RandomSampler(seed=seed)
