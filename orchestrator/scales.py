"""Scales on which outcomes are learnt.

A candidate that failed to learn lies far below all others, and a model of the values as they are is mostly about who
fails. So one objective, of which only the top counts, is learnt by its ranks, as normal scores (the copula transform of
Salinas, Shen & Perrone 2020, ICML, section 3.2). Over several objectives distances count as well, and each is learnt as
it is.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Protocol

import numpy as np
from scipy.special import logit, ndtri
from scipy.stats import rankdata

from orchestrator.dominance import FloatArray

OUTCOMES = 64
"""So many equally likely outcomes stand for what a candidate may come to."""
QUANTILES = np.array([NormalDist().inv_cdf((at + 0.5) / OUTCOMES) for at in range(OUTCOMES)])
"""Of the standard normal distribution: its equally likely outcomes."""

_LEAST_VALUES = 3
"""So many different values have a median between their ends."""
_LEAST_SHARE = 0.001
"""Shares count as no less than this and no more than the rest: log odds have no ends."""


def log_odds(shares: FloatArray) -> FloatArray:
    """Return the log odds of shares, same shape."""
    return np.asarray(logit(np.clip(shares, _LEAST_SHARE, 1.0 - _LEAST_SHARE)))


class Scale(Protocol):
    """A rising function of a metric's values, and its inverse."""

    def of(self, values: FloatArray) -> FloatArray:
        """Return values on this scale, same shape."""

    def back(self, scaled: FloatArray) -> FloatArray:
        """Return what is on this scale as values, same shape."""


class AsTheyAre:
    """Values in their own unit."""

    def of(self, values: FloatArray) -> FloatArray:
        """Return the values."""
        return values

    def back(self, scaled: FloatArray) -> FloatArray:
        """Return the values."""
        return scaled


class NormalScores:
    """Quantiles of the normal distribution at the ranks of some values.

    Between the values it is interpolated. Beyond the first and the last it goes on as steep as from there to the
    median, so that more can be hoped for than was seen.
    """

    def __init__(self, values: FloatArray) -> None:
        """Take at least three different values, shape [values]."""
        self._values, first = np.unique(values, return_index=True)
        self._scores = ndtri((rankdata(values)[first] - 0.5) / len(values))
        middle = (len(self._values) - 1) // 2
        self._below, self._above = (self._slope(*ends) for ends in ((0, middle or 1), (middle, -1)))

    def of(self, values: FloatArray) -> FloatArray:
        """Return the scores of values; of those beyond the ends, the ends'."""
        return np.interp(values, self._values, self._scores)

    def back(self, scaled: FloatArray) -> FloatArray:
        """Return the values at scores, beyond the ends as well."""
        below, above = np.minimum(scaled - self._scores[0], 0.0), np.maximum(scaled - self._scores[-1], 0.0)
        return np.asarray(np.interp(scaled, self._scores, self._values) + self._below * below + self._above * above)

    def _slope(self, low: int, high: int) -> float:
        return float((self._values[high] - self._values[low]) / (self._scores[high] - self._scores[low]))


def scale_of(values: FloatArray, objectives: int) -> Scale:
    """Return the scale on which an objective is learnt.

    Args:
        values: What was seen of it, shape [values].
        objectives: How many objectives there are.
    """
    return NormalScores(values) if objectives == 1 and len(np.unique(values)) >= _LEAST_VALUES else AsTheyAre()
