"""What candidates may come to at the end of their training, by what became of others.

From each rung to the next, and from the last one to the end, there is an isotonic regression over all that passed both,
and the outcomes are those of CV+ (Barber, Candes, Ramdas & Tibshirani 2021, Annals of Statistics 49). Step by step, for
who goes beyond a rung was chosen by what it had there: those that got to the end alone would promise too much.

Shares of right answers stand still early in training and then jump, while the loss falls from the first step on. So
what tells of such a share is the loss where all rungs have it. Shares count by their log odds, errors by their
logarithm: both then have no ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit

from evaluators.score import METRICS, UNTRAINED, Score
from orchestrator.dominance import FloatArray
from orchestrator.scales import OUTCOMES, QUANTILES, log_odds
from orchestrator.trial import Trial

_TOLD_BY = {"accuracy": "nll", "macro_f1": "nll", "worst_subgroup_accuracy": "nll"}
_FOLDS, _LEAST, _MOST_ROWS = 20, 3, 400
_UNKNOWN = 0.5
"""Standard deviation of a gain, in log odds or logarithms, before there are three to tell it."""
_LEAST_ERROR = 1e-6


@dataclass(frozen=True)
class Ends:
    """What trials may come to in one metric of quality, or in one that training does not change.

    Attributes:
        metric: Its name.
        trials: With at least one score each.
    """

    metric: str
    trials: Sequence[Trial]

    def outcomes(self, seed: int) -> FloatArray:
        """Return what each trial may come to, equally likely, shape [outcomes, trials].

        One that was trained to its end comes to what it came to. Where nothing tells, it is not a number.

        Args:
            seed: Of the draws.
        """
        draws, measured = np.random.RandomState(seed), self._own
        if self.metric in UNTRAINED:
            return np.tile(_last(measured), (OUTCOMES, 1))
        reached = np.tile(measured[:, -1], (OUTCOMES, 1))
        for rung in range(len(self._fidelities) - 1):
            waiting = np.flatnonzero((self._rung == rung) & np.isfinite(measured[:, rung]))
            if len(waiting):
                reached[:, waiting] = self._back(self._from(rung, waiting, draws))
        return reached

    def _from(self, rung: int, waiting: NDArray[np.int64], draws: np.random.RandomState) -> FloatArray:
        """Return what those come to that stand at a rung, on the open scale, shape [outcomes, waiting]."""
        ended = np.flatnonzero(np.isfinite(self._ends))
        if len(ended) < _LEAST:
            gains = self._ends[ended] - self._values[ended, rung]
            gain = float(np.nanmean(gains)) if np.isfinite(gains).any() else 0.0
            return np.asarray(self._values[waiting, rung] + gain + _UNKNOWN * QUANTILES[:, None])
        reached = np.tile(self._signals[waiting, rung], (OUTCOMES, 1))
        last = len(self._fidelities) - 2
        for at in range(rung, last + 1):
            after = self._ends if at == last else self._signals[:, at + 1]
            both = np.flatnonzero(np.isfinite(self._signals[:, at]) & np.isfinite(after))[-_MOST_ROWS:]
            reached = cross_validated(self._signals[both, at], after[both], reached, draws)
        return reached

    @cached_property
    def _fidelities(self) -> list[float]:
        return sorted({1.0, *(score.fidelity for one in self.trials for score in one.scores)})

    @cached_property
    def _rung(self) -> NDArray[np.int64]:
        """The last rung of each trial, shape [trials]."""
        places = {fidelity: at for at, fidelity in enumerate(self._fidelities)}
        return np.array([places[one.scores[-1].fidelity] for one in self.trials], dtype=np.int64)

    @cached_property
    def _values(self) -> FloatArray:
        """The metric at each rung on the open scale, less is better, shape [trials, rungs]; NaN where not measured."""
        return self._open(self._own)

    @cached_property
    def _own(self) -> FloatArray:
        """The metric at each rung, shape [trials, rungs]; NaN where it was not measured."""
        return self._measured(self.metric)

    @cached_property
    def _signals(self) -> FloatArray:
        """What tells of the end at each rung, less is better, shape [trials, rungs]; NaN where not measured."""
        base, *task = self.metric.split("/")
        if base not in _TOLD_BY:
            return self._values
        losses = self._measured("/".join([_TOLD_BY[base], *task]))
        return losses if np.isfinite(losses[np.isfinite(self._values)]).all() else self._values

    @property
    def _ends(self) -> FloatArray:
        """What those came to that were trained to the end, on the open scale, shape [trials]; NaN for others."""
        return self._values[:, -1]

    def _measured(self, metric: str) -> FloatArray:
        """Return a metric at each rung, shape [trials, rungs]; NaN where it was not measured."""
        places = {fidelity: at for at, fidelity in enumerate(self._fidelities)}
        found = np.full((len(self.trials), len(places)), np.nan)
        for row, one in enumerate(self.trials):
            for score in one.scores:
                found[row, places[score.fidelity]] = score.values.get(metric, np.nan)
        return found

    @property
    def _is_share(self) -> bool:
        return METRICS[self.metric].direction == "maximize"

    def _open(self, values: FloatArray) -> FloatArray:
        return -log_odds(values) if self._is_share else np.log(np.maximum(values, _LEAST_ERROR))

    def _back(self, opened: FloatArray) -> FloatArray:
        return np.asarray(expit(-opened) if self._is_share else np.exp(opened))


def _last(measured: FloatArray) -> FloatArray:
    """Return the last known value of each row, shape [rows]."""
    places = measured.shape[1] - 1 - np.isfinite(measured)[:, ::-1].argmax(axis=1)
    return np.asarray(measured[np.arange(len(measured)), places])


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


def by_mean_gains(trials: Sequence[Trial], metric: str, gains: Mapping[float, float]) -> list[float | None]:
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
