"""Events: something was given a probability, and it happened or it did not.

Every calibration error is about such events. Which ones is the first half of its definition: that the top label is
right (Guo et al. 2017), that y = 1 (binary), or that y = k for one class k (classwise).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from calibration.rows import (
    BoolArray,
    FloatArray,
    IntArray,
    checked_binary_probabilities,
    checked_labels,
    checked_probabilities,
    checked_weights,
)


@dataclass(frozen=True)
class Outcomes:
    """Events of n rows.

    Attributes:
        probability: What was predicted, shape (n,), in [0, 1].
        happened: Whether it came true, shape (n,).
        share: Weights of shape (n,), all positive, that sum to one; rows of weight zero are left out.
    """

    probability: FloatArray
    happened: BoolArray
    share: FloatArray


def top_label(probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Outcomes:
    """Return "the class with the largest probability is the label"; of equal ones, the first class counts.

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    array, targets, share = labelled_probabilities(probabilities, labels, weights)
    return Outcomes(array.max(axis=1), array.argmax(axis=1) == targets, share)


def binary(probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Outcomes:
    """Return "y = 1", from P(y = 1) of shape (n,) or probabilities of shape (n, 2).

    Raises:
        CalibrationError: Arrays that are not fit to use; see `calibration.rows`.
    """
    array = checked_binary_probabilities(probabilities)
    happened = checked_labels(labels, array.size, 2) == 1
    share = checked_weights(weights, array.size)
    counted = share > 0.0
    return Outcomes(array[counted], happened[counted], share[counted])


def one_class(array: FloatArray, targets: IntArray, share: FloatArray, k: int) -> Outcomes:
    """Return "y = k" of checked probabilities of shape (n, classes)."""
    return Outcomes(array[:, k], targets == k, share)


def labelled_probabilities(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Return checked probabilities, labels and shares that fit together, without the rows of weight zero."""
    array = checked_probabilities(probabilities)
    targets = checked_labels(labels, *array.shape)
    share = checked_weights(weights, len(array))
    counted = share > 0.0
    return (array, targets, share) if counted.all() else (array[counted], targets[counted], share[counted])
