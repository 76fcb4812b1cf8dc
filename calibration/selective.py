"""Selective prediction: answer the rows that the model is surest of, and leave the rest.

Confidence is the largest probability. Rows of equal confidence cannot be told apart, so they share their errors
evenly: every number here is the expectation over a random order of ties, and depends on no order of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.outcomes import Outcomes, top_label
from calibration.rows import FloatArray, checked_share


@dataclass(frozen=True)
class RiskCoverage:
    """Error rate among the rows answered, surest first.

    Attributes:
        coverage: Part of the weight that is answered after each row, ascending to 1, shape (n,).
        risk: Error rate among these, in [0, 1], shape (n,).
        share: Each row's weight, in that order; sums to one, shape (n,).
    """

    coverage: FloatArray
    risk: FloatArray
    share: FloatArray


def risk_coverage(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, weights: npt.ArrayLike | None = None
) -> RiskCoverage:
    """Return the risk-coverage curve (El-Yaniv & Wiener 2010).

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    return _curve(top_label(probabilities, labels, weights))


def aurc(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> float:
    """Return the area under the risk-coverage curve: its mean over the n coverages 1/n, ..., 1. Lower is better.

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    curve = risk_coverage(probabilities, labels, weights=weights)
    return float(curve.share @ curve.risk)


def excess_aurc(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> float:
    """Return the area less that of the best order of the same errors: 0 when every error is less sure than every hit.

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    outcomes = top_label(probabilities, labels, weights)
    best = _curve(Outcomes(outcomes.happened.astype(np.float64), outcomes.happened, outcomes.share))
    curve = _curve(outcomes)
    return float(curve.share @ curve.risk - best.share @ best.risk)


def selective_accuracy(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    coverage: float = 0.8,
    *,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Return the accuracy on the surest `coverage` of the rows; a row on the border counts in part.

    Args:
        probabilities: Shape (n, k).
        labels: Class indices of shape (n,).
        coverage: In (0, 1].
        weights: Optional, shape (n,).

    Raises:
        CalibrationError: Arrays or options that are not fit to use; see `calibration.rows`.
    """
    checked_share(coverage, "coverage", including_one=True)
    curve = risk_coverage(probabilities, labels, weights=weights)
    covered = np.append(0.0, curve.coverage)
    errors = np.append(0.0, curve.coverage * curve.risk)
    return 1.0 - float(np.interp(coverage * covered[-1], covered, errors)) / (coverage * covered[-1])


def _curve(outcomes: Outcomes) -> RiskCoverage:
    order = np.lexsort((outcomes.share, -outcomes.probability))
    confidence, share = outcomes.probability[order], outcomes.share[order]
    wrong = ~outcomes.happened[order]
    starts = np.flatnonzero(np.diff(confidence, prepend=np.inf))
    block_rate = np.add.reduceat(wrong * share, starts) / np.add.reduceat(share, starts)
    rate = np.repeat(block_rate, np.diff(np.append(starts, confidence.size)))
    coverage = np.cumsum(share)
    return RiskCoverage(coverage, np.cumsum(rate * share) / coverage, share)
