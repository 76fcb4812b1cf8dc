"""Proper scores: minimised, in expectation, by the true probabilities and by nothing else.

    nll_from_logits     mean -log softmax(z)_y, nats; exact however small the probability
    nll                 mean -log p_y, nats; infinite when a label was given probability 0
    brier               mean over rows of the sum over classes of (p_k - [y = k])^2, in [0, 2]
    brier_binary        mean of (P(y = 1) - y)^2, in [0, 1]: half of `brier` for two classes
    decomposition       a score, parted into what a temperature would mend and what it would not

Nothing is clipped: where scikit-learn's `log_loss` moves a probability of 0 to the smallest float, `nll` says infinity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.outcomes import binary, labelled_probabilities
from calibration.rows import FloatArray, IntArray, checked_choice, checked_weights
from calibration.softmax import log_softmax
from calibration.temperature import labelled_logits

ProperScore: TypeAlias = Literal["nll", "brier"]


@dataclass(frozen=True)
class Decomposition:
    """A proper score in two parts, total = calibration + refinement.

    Attributes:
        total: The score of the model as it is.
        calibration: What cross-fitted temperature scaling takes away. Signed: scaling can do harm.
        refinement: The score that is left after it.
        score: "nll" or "brier".
    """

    total: float
    calibration: float
    refinement: float
    score: ProperScore

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def nll_from_logits(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    answer_set: npt.ArrayLike | None = None,
) -> float:
    """Return the mean negative log-likelihood (nats) of softmax(logits).

    Args:
        logits: Raw logits of shape (n, k); ``-inf`` outside the answer set.
        labels: Class indices of shape (n,).
        weights: Optional, shape (n,).
        answer_set: Optional booleans of shape (n, k) or (k,).

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`. Probabilities are refused.
    """
    array, targets = labelled_logits(logits, labels, answer_set)
    return float(checked_weights(weights, targets.size) @ surprises(log_softmax(array), targets))


def nll(probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the mean negative log-likelihood (nats); infinite when a label has probability 0.

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    array, targets, share = labelled_probabilities(probabilities, labels, weights)
    with np.errstate(divide="ignore"):
        return float(share @ -np.log(_picked(array, targets)))


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the Brier score as a sum over classes (Brier 1950), in [0, 2].

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    array, targets, share = labelled_probabilities(probabilities, labels, weights)
    gaps = array.copy()
    gaps[np.arange(targets.size), targets] -= 1.0
    return float(share @ np.square(gaps).sum(axis=1))


def brier_binary(probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the mean of (P(y = 1) - y)^2, from shape (n,) or (n, 2). In [0, 1].

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    outcomes = binary(probabilities, labels, weights)
    return float(outcomes.share @ np.square(outcomes.probability - outcomes.happened))


def decomposition(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    score: ProperScore = "nll",
    folds: int = 5,
    seed: int = 0,
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
) -> Decomposition:
    """Return a score in a calibration and a refinement part (Berta et al. 2025), with no bins involved.

    Refinement is the score after cross-fitted temperature scaling, each fold with the temperature of the others;
    calibration is what that took away.

    Args:
        logits: Raw logits of shape (n, k); ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        weights: Optional, shape (n,): of the fits and of the score.
        score: "nll" or "brier" (sum over classes).
        folds: How many, 2 to n.
        seed: Decides the folds.
        answer_set: Optional booleans of shape (n, k) or (k,).
        groups: Optional, shape (n,): rows of one group stay in one fold.

    Raises:
        CalibrationError: Arrays or options that are not fit to use; see `calibration.rows`.
    """
    checked_choice(score, "score", get_args(ProperScore))
    array, targets = labelled_logits(logits, labels, answer_set)
    share = checked_weights(weights, targets.size)
    scaled = cross_fitted_log_probabilities(array, targets, folds=folds, seed=seed, weights=share, groups=groups)
    rows = squared_errors if score == "brier" else surprises
    total, refinement = (float(share @ rows(logs, targets)) for logs in (log_softmax(array), scaled))
    return Decomposition(total, total - refinement, refinement, score)


def surprises(log_probabilities: FloatArray, targets: IntArray) -> FloatArray:
    """Return -log p_y of each row, of checked arrays; infinite where a label has probability 0."""
    return -_picked(log_probabilities, targets)


def squared_errors(log_probabilities: FloatArray, targets: IntArray) -> FloatArray:
    """Return the Brier score of each row, of checked arrays."""
    array = np.exp(log_probabilities)
    array[np.arange(targets.size), targets] -= 1.0
    errors: FloatArray = np.square(array).sum(axis=1)
    return errors


def _picked(array: FloatArray, targets: IntArray) -> FloatArray:
    picked: FloatArray = array[np.arange(targets.size), targets]
    return picked
