"""A design on trial, on the tables alone: freeze-thaw for fronts, where no stop is final.

Each candidate pauses at every rung. At each decision the one goes on, of those that pause and of new ones, that is
expected to add most volume to the front (Swersky, Snoek & Adams 2014, arXiv:1406.3896). What differs from the
product's search beside that:

- What a paused candidate may come to follows from its loss at the rung. From each rung to the next, and from the last
  one to the log odds of a right answer at the end, there is an isotonic regression over all that passed both, and the
  outcomes are those of CV+ (Barber, Candes, Ramdas & Tibshirani 2021, Annals of Statistics 49). Step by step, because
  who goes beyond a rung was chosen by what it had there: those that got to the end alone would promise too much.
- The forest learns these outcomes' means of who pauses. What it says of new candidates is shrunk to the mean and spread
  as its out-of-bag errors ask for: on a small table it knows little, and a search that trusts it looks at the same kind
  again and again.
- The first candidate, plain LoRA or the cheapest, is trained to its end at once, so that there is a front early.

It is written for the tables: their candidates, accuracy and trainable parameters, one candidate at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit

from benchmarks.contest.arena import Arena, Finished, Search
from benchmarks.contest.ours import FRONT
from orchestrator.dominance import FloatArray
from orchestrator.samplers import derived_seed
from orchestrator.samplers.forest import QUANTILES, expected_gains, normal_outcomes
from orchestrator.scales import log_odds
from orchestrator.trees import Columns, fitted, moments, out_of_bag

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_TREES, _FOLDS, _LEAST, _LEAST_CALIBRATED = 64, 20, 3, 6
_UNKNOWN = 0.5
"""Standard deviation of a gain in log odds before there are three to tell it."""


def thawing(rungs: int, startup: int = 2) -> Search:
    """Return that search, for the front of accuracy over parameters.

    Args:
        rungs: Rungs, the last being full training.
        startup: Candidates that are looked at before anything is learnt: the space's usual one, then random ones.
    """

    def run(arena: Arena, steps: int, seed: int) -> list[Finished]:
        return _Thawing(arena, steps, seed, rungs, startup).run()

    return run


@dataclass
class _Course:
    """What is known of the candidates that were looked at.

    Attributes:
        losses: Loss at each rung before the last, shape [candidates, rungs - 1]; those not reached are not read.
        shares: Share of right answers at each rung, shape [candidates, rungs].
        passed: Rungs that each passed, shape [candidates].
        failed: Who failed, shape [candidates].
    """

    losses: FloatArray
    shares: FloatArray
    passed: IntArray
    failed: BoolArray

    def ended(self) -> IntArray:
        """Return who was trained to the end without a failure."""
        return np.flatnonzero((self.passed == self.shares.shape[1]) & ~self.failed)

    def paused(self, passed: int) -> IntArray:
        """Return who passed so many rungs and not yet all."""
        return np.flatnonzero((self.passed == passed) & ~self.failed)

    def outcomes(self, passed: int, draws: np.random.RandomState) -> FloatArray:
        """Return what those that pause there may come to, as shares of right answers, shape [outcomes, paused]."""
        some, ended = self.paused(passed), self.ended()
        if len(ended) < _LEAST:
            gains = log_odds(self.shares[ended, -1]) - log_odds(self.shares[ended, passed - 1])
            middle = log_odds(self.shares[some, passed - 1]) + (gains.mean() if len(gains) else 0.0)
            return np.asarray(expit(middle + _UNKNOWN * QUANTILES[:, None]))
        reached = np.tile(self.losses[some, passed - 1], (len(QUANTILES), 1))
        for rung in range(passed - 1, self.losses.shape[1]):
            last = rung == self.losses.shape[1] - 1
            both = ended if last else np.flatnonzero((self.passed > rung + 1) & ~self.failed)
            after = -log_odds(self.shares[both, -1]) if last else self.losses[both, rung + 1]
            reached = cross_validated(self.losses[both, rung], after, reached, draws)
        return np.asarray(expit(-reached))


def cross_validated(
    before: FloatArray, after: FloatArray, asked: FloatArray, draws: np.random.RandomState
) -> FloatArray:
    """Return what rising values may become, by those of others: CV+ over an isotonic regression, shape as `asked`.

    Each row takes the error of another one of the others, added to what the regression without that one's fold says.

    Args:
        before: What the others had, shape [others], at least two.
        after: What became of it, shape [others].
        asked: What is asked of, shape [outcomes, values].
        draws: Tells which row takes whose error.
    """
    folds = draws.permutation(len(before)) % min(_FOLDS, len(before))
    taken = draws.randint(0, len(before), len(asked))
    found = np.empty_like(asked)
    for fold in np.unique(folds[taken]):
        out, rows = folds == fold, folds[taken] == fold
        order = np.argsort(before[~out], kind="stable")
        known, rising = before[~out][order], isotonic_regression(after[~out][order]).x
        errors = after - np.interp(before, known, rising)
        found[rows] = np.interp(asked[rows], known, rising) + errors[taken[rows], None]
    return found


@dataclass
class _Thawing:
    """One search."""

    arena: Arena
    steps: int
    seed: int
    rungs: int
    startup: int
    found: list[Finished] = field(default_factory=list)
    spent: int = 0

    def __post_init__(self) -> None:
        arena = self.arena
        self._rows, self._steps = arena.rows, arena.table.header.rungs[-self.rungs :]
        self._options, self._box = arena.options(self._rows), arena.box(FRONT)
        numbers = [one.numbers for one in self._options]
        self._numbers = Columns(numbers).matrix(numbers)
        self._sizes = np.array([row.cost.trainable_params for row in self._rows], dtype=np.float64)
        shares, losses = (self._measured(metric) for metric in ("accuracy", "nll"))
        count = len(self._rows)
        self._course = _Course(losses[:, :-1], shares, np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_))

    def run(self) -> list[Finished]:
        """Search until the steps are spent or all are trained."""
        usual, *others = self._first()
        for at in [usual] * self.rungs + others:
            self._advance(at)
        decision = 0
        while self.spent < self.steps and (self._course.passed < self.rungs).any():
            decision += 1
            self._advance(self._choice(derived_seed(self.seed, decision)))
        return self.found

    def _measured(self, metric: str) -> FloatArray:
        """Return a metric on validation at each rung, shape [candidates, rungs]; 0 where a candidate failed."""
        table = self.arena.table
        place, skipped = table.header.quality.index(metric), len(table.header.rungs) - self.rungs
        values = np.zeros((len(self._rows), self.rungs))
        for at, row in enumerate(self._rows):
            if not row.cause:
                values[at] = [scores[place] for scores in row.validation[skipped:]]
        return values

    def _first(self) -> Sequence[int]:
        """Return what is looked at before anything is learnt: plain LoRA or the cheapest, then random ones."""
        order = list(range(len(self._rows)))
        random.Random(self.seed).shuffle(order)
        lora = self.arena.space.plain_lora()
        nearest = None if lora is None else self.arena.points.nearest(lora, ())
        usual = [at for at in order if self._rows[at].candidate == nearest] or [int(np.argmin(self._sizes))]
        return [*usual, *(at for at in order if at not in usual)][: self.startup]

    def _advance(self, at: int) -> None:
        """Train a candidate to its next rung; one that fails costs what it was on the way to."""
        passed = int(self._course.passed[at])
        self.spent += self._steps[passed] - (self._steps[passed - 1] if passed else 0)
        self._course.passed[at] = passed + 1
        if self._rows[at].cause:
            self._course.passed[at], self._course.failed[at] = self.rungs, True
        elif passed + 1 == self.rungs and self.spent <= self.steps:
            self.found.append(Finished(self.spent, self._rows[at]))

    def _choice(self, seed: int) -> int:
        """Return who goes on or is looked at next."""
        course, draws = self._course, np.random.RandomState(seed)
        ended, new = course.ended(), np.flatnonzero(course.passed == 0)
        paused = {passed: some for passed in range(1, self.rungs) if len(some := course.paused(passed))}
        if not len(ended) and paused:
            waiting = np.concatenate(list(paused.values()))
            return int(max(waiting, key=lambda at: course.shares[at, course.passed[at] - 1]))
        front = self._box.front(np.column_stack([course.shares[ended, -1], self._sizes[ended]]))
        values = course.shares[:, -1].copy()
        offers: list[tuple[float, int]] = []
        for passed, some in paused.items():
            promised = course.outcomes(passed, draws)
            values[some] = promised.mean(axis=0)
            offers.append(self._best(some, promised, front))
        if len(new):
            offers.append(self._best(new, self._promised(values, new, seed), front))
        return max(offers)[1]

    def _promised(self, values: FloatArray, new: IntArray, seed: int) -> FloatArray:
        """Return what new candidates may come to by what others did or may, shape [outcomes, new]."""
        learnt = np.flatnonzero((self._course.passed > 0) & ~self._course.failed)
        known = values[learnt]
        trees = fitted(self._numbers[learnt], known, seed, _TREES)
        means, deviations = moments(trees, self._numbers[new])
        if len(learnt) >= _LEAST_CALIBRATED:
            middle, outside = known.mean(), out_of_bag(trees, self._numbers[learnt], known)
            slope = _slope(outside - middle, known - middle)
            errors = known - middle - slope * (outside - middle)
            means = middle + slope * (means - middle)
            deviations = np.full_like(means, np.sqrt((errors**2).sum() / (len(known) - 2)))
        return normal_outcomes(means, deviations, seed)

    def _best(self, some: IntArray, promised: FloatArray, front: FloatArray) -> tuple[float, int]:
        """Return the most that one of some candidates is expected to add, and which one."""
        gains = expected_gains(self._box, [self._options[at] for at in some], {"accuracy": promised}, front)
        return float(gains.max()), int(some[int(gains.argmax())])


def _slope(said: FloatArray, was: FloatArray) -> float:
    """Return by how much predictions, less the mean, are to be multiplied, from 0 to 1."""
    spread = float(said @ said)
    return min(max(float(said @ was) / spread, 0.0), 1.0) if spread > 0 else 0.0
