"""What speaks against a candidate before it is trained: limits on what only training tells, and failures.

Both are learnt where there is something to learn. A limit that somebody broke has trees that predict how far a
candidate is above or below it, failures have trees that predict their share. The chance that a candidate keeps all
limits and does not fail is what its expected gain is multiplied with (Gardner et al. 2014, ICML).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from evaluators.score import METRICS
from orchestrator.dominance import FloatArray
from orchestrator.trees import FloatMatrix, fitted, measured, moments, predicted
from orchestrator.trial import Trial

_TREES = 16
_MOST_ROWS = 300
_LEAST_FAILURES = 2
_NOISE = 0.01
"""Share of a limit by which what is measured differs from one time to the next."""
_LEAST_CHANCE = log(0.5)
_LEAST_SHARE = 1e-6
"""Of a limit; the logarithm has no end."""


@dataclass(frozen=True)
class Odds:
    """Trees that tell what speaks against a candidate.

    Attributes:
        limits: For each limit that was broken, trees that predict how far above it a candidate is.
        failures: Trees that predict the share of failures, where there were any.
        rate: Share of the trials that failed.
    """

    limits: Sequence[Sequence[Any]]
    failures: Sequence[Any]
    rate: float

    @classmethod
    def learnt(
        cls, known: FloatMatrix, ends: Mapping[str, Sequence[float | None]], limits: Mapping[str, float],
        ended: FloatMatrix, failed: Sequence[bool], seed: int,
    ) -> Odds:  # fmt: skip
        """Learn from the trials so far.

        Args:
            known: Numbers of the trials that were measured, shape [trials, columns].
            ends: What each of them came to, by limited metric; None where nothing tells.
            limits: Hard limits by metric.
            ended: Numbers of the trials that `telling_failures` gives, shape [ended, columns].
            failed: Whether each of these failed.
            seed: Of the trees.
        """
        kept = []
        for metric, values in ends.items():
            places, found = measured(values)
            if len(found) and found.max() > limits[metric]:
                above = excess(metric, found, limits[metric])
                kept.append(fitted(known[places][-_MOST_ROWS:], above[-_MOST_ROWS:], seed, _TREES))
        shares = np.array(failed, dtype=np.float64)
        failures = fitted(ended, shares, seed, _TREES) if len(failed) else []
        return cls(kept, failures, float(shares.mean()) if len(failed) else 0.0)

    def weighed(self, gains: FloatArray, numbers: FloatMatrix, *, nothing_kept: bool) -> FloatArray:
        """Return what each option is worth, shape [options].

        That is what it is expected to add. One that is more likely to break a limit or to fail than not comes after all
        others: when little is left to gain where all goes well, a large gain with a small chance seems more than that.

        Args:
            gains: What each adds if it keeps all limits and does not fail, shape [options].
            numbers: Of the options, shape [options, columns].
            nothing_kept: Whether no trial kept all limits so far. Then the way there is all that counts.
        """
        if not (self.limits or self.failures):
            return gains
        chances = self._log_chance_within(numbers)
        if self.failures:
            chances = chances + np.log1p(-self._share_failed(numbers))
        if self.limits and nothing_kept:
            return chances
        worth = gains * np.exp(chances)
        return np.where(chances < _LEAST_CHANCE, worth - worth.max(), worth)

    def keeps(self, numbers: FloatMatrix) -> list[bool]:
        """Return whether each row is expected to keep all limits."""
        if not (self.limits and len(numbers)):
            return [True] * len(numbers)
        within = [predicted(trees, numbers).mean(axis=0) <= 0 for trees in self.limits]
        return list(map(bool, np.logical_and.reduce(within)))

    def _log_chance_within(self, numbers: FloatMatrix) -> FloatArray:
        """Return the logarithm of the chance to keep all limits, shape [rows]."""
        found = np.zeros(len(numbers))
        for trees in self.limits:
            means, deviations = moments(trees, numbers)
            found += log_ndtr(-means / np.maximum(deviations, _NOISE))
        return found

    def _share_failed(self, numbers: FloatMatrix) -> FloatArray:
        """Return the mean share of failures in the leaves of each row, shape [rows], below 1.

        Leaves are small. So one of n trials counts as n + 1, the one more with the share of all trials (Cestnik 1990).
        """
        shares = []
        for tree in self.failures:
            leaves = tree.tree_.apply(numbers)
            count, share = tree.tree_.weighted_n_node_samples[leaves], tree.tree_.value[leaves, 0, 0]
            shares.append((count * share + self.rate) / (count + 1.0))
        return np.asarray(np.mean(shares, axis=0))


def telling_failures(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that tell what fails, in order; none where all or fewer than two of them failed.

    What came to a rung and stopped or pauses there counts as good.
    """
    told = ("complete", "partial", "paused", "failed")
    ended = (one for one in reversed(trials) if one.state in told and one.cost is not None)
    recent = list(islice(ended, _MOST_ROWS))[::-1]
    return recent if _LEAST_FAILURES <= sum(one.state == "failed" for one in recent) < len(recent) else []


def excess(metric: str, values: FloatArray, limit: float) -> FloatArray:
    """Return how far values are above a limit, shape [values]: costs by the logarithm of their share of it."""
    shares = values / limit
    return np.asarray(shares - 1.0 if METRICS[metric].on_split else np.log(np.maximum(shares, _LEAST_SHARE)))
