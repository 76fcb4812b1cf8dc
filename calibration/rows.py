"""What comes in: logits, probabilities, labels and weights, checked once at the door.

Every public function of the package begins here. What passes is float64 (labels int64), of one shape, and free of
NaN; nothing is repaired on the way. An option outside a row's *answer set* is ``-inf`` among logits from here on,
and is removed from every sum; a large negative number such as -1e4 is *not* that, and is taken at its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from calibration.errors import (
    LabelError,
    LogitsError,
    NonFiniteError,
    OneClassError,
    OptionError,
    ProbabilityError,
    ShapeError,
    TooFewRowsError,
    UnsupportedTaskError,
    WeightError,
)
from calibration.rounding import LARGEST_ERROR, rounding_error

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

LARGEST_LOGIT = 1e100
"""A magnitude that no model emits; beyond it squares would overflow."""

SUM_TOLERANCE = 1e-4
"""How far a row of probabilities may be from summing to one (float32 softmax is within 1e-5)."""

_EXACT_SUM = 1e-6
_ROWS_TO_TELL = 3
"""Distinct rows from which on sums near one are no chance: with two classes, each is one in fifty at most."""


def checked_logits(logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
    """Return logits as float64 of shape (n, k), ``-inf`` outside the answer set.

    Args:
        logits: Shape (n, k), k >= 2. ``-inf`` means "not in the answer set of this row".
        answer_set: Booleans of shape (n, k) or (k,): True where the option may be answered.

    Raises:
        ShapeError: Not two-dimensional, one column only, or an answer set of another shape.
        TooFewRowsError: No rows.
        NonFiniteError: NaN, +inf or a magnitude above 1e100.
        LogitsError: A row with no option left.
    """
    array = _as_float(logits, "logits")
    _check_matrix(array, "logits")
    if answer_set is not None:
        array = np.where(checked_answer_set(answer_set, array), array, -np.inf)
    largest, smallest = array.max(), array.min()
    if np.isnan(largest) or largest == np.inf:
        _complain_non_finite(array, "logits", allowed="finite values, and -inf outside the answer set")
    if smallest == -np.inf:
        smallest = _smallest_in_answer_set(array)
    if max(largest, -smallest) > LARGEST_LOGIT:
        raise NonFiniteError(
            f"logits reach a magnitude of {max(largest, -smallest):.3g}; the largest allowed is {LARGEST_LOGIT:g}. "
            "Mark options outside the answer set with -inf or answer_set, not with a huge number."
        )
    return array


def refuse_probabilities(logits: FloatArray) -> None:
    """Raise LogitsError when every row lies in [0, 1] and sums to one, as nearly as rounding leaves it.

    Real logits of that shape are next to impossible beyond a handful of rows; taking them for probabilities, or
    probabilities for logits, silently changes every number. So neither is guessed. In fewer than three distinct rows,
    such as constant logits have, only exact sums are told.
    """
    if logits.min() < 0.0 and not np.any(np.isneginf(logits)):
        return
    inside = np.where(np.isneginf(logits), 0.0, logits)
    if inside.min() < 0.0 or inside.max() > 1.0 or not _sums_to_one(inside):
        return
    raise LogitsError(
        "these look like probabilities, not logits: every row lies in [0, 1] and sums to one, up to rounding. Pass the "
        "raw logits, or numpy.log of probabilities that were not rounded; if they truly are logits, subtract each "
        "row's maximum first."
    )


def _sums_to_one(values: FloatArray) -> bool:
    error = np.abs(values.sum(axis=1) - 1.0).max()
    if error <= _EXACT_SUM or error > LARGEST_ERROR + _EXACT_SUM:
        return bool(error <= _EXACT_SUM)
    rounded = error <= max(SUM_TOLERANCE, rounding_error(values)) + _EXACT_SUM
    return bool(rounded and len(np.unique(values, axis=0)) >= _ROWS_TO_TELL)


def checked_labels(labels: npt.ArrayLike, n: int, k: int) -> IntArray:
    """Return labels as int64 of shape (n,), each in 0..k-1.

    Raises:
        ShapeError: Another length than n.
        LabelError: Not integers, or out of range.
        UnsupportedTaskError: Floating-point (regression) or two-dimensional (multi-label, one-hot) labels.
    """
    array = np.asarray(labels)
    if array.ndim == 2:
        raise UnsupportedTaskError(
            f"labels have shape {array.shape}: one class index per row is needed, shape ({n},). Multi-label targets "
            "are not supported; for one-hot rows pass labels.argmax(axis=1)."
        )
    if array.shape != (n,):
        raise ShapeError(f"labels have shape {array.shape}; one per row is needed, shape ({n},).")
    if np.issubdtype(array.dtype, np.floating):
        raise UnsupportedTaskError(
            "labels are floating-point numbers; class indices (integers) are needed. Regression is not supported; "
            "for classes stored as floats pass labels.astype(int)."
        )
    if not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise LabelError(f"labels are of type {array.dtype}; class indices (integers from 0 to {k - 1}) are needed.")
    if array.min() < 0 or array.max() >= k:
        bad = int(np.argmax((array < 0) | (array >= k)))
        raise LabelError(f"label {array[bad]} in row {bad} is out of range: {k} classes allow 0 to {k - 1}.")
    return array.astype(np.int64, copy=False)


def check_labels_answerable(logits: FloatArray, labels: IntArray) -> None:
    """Raise LabelError when a label lies outside its row's answer set."""
    outside = np.isneginf(logits[np.arange(labels.size), labels])
    if outside.any():
        row = int(np.argmax(outside))
        raise LabelError(
            f"the label {labels[row]} of row {row} is outside that row's answer set ({int(outside.sum())} such rows), "
            "so its likelihood is zero at any temperature. Mend the labels or the answer set."
        )


def check_several_classes(labels: IntArray) -> None:
    """Raise OneClassError when all labels are the same."""
    if labels.size and np.all(labels == labels[0]):
        raise OneClassError(
            f"all {labels.size} labels are class {labels[0]}; a fit needs at least two classes. "
            "Draw the calibration rows stratified by class."
        )


def check_several_classes_judged(labels: IntArray) -> None:
    """Raise OneClassError when all labels of the rows that a calibrator is judged on are the same."""
    if labels.size and np.all(labels == labels[0]):
        raise OneClassError(
            f"all {labels.size} labels of the rows to be judged are class {labels[0]}; how well probabilities are "
            "calibrated is told from rows of at least two classes. Judge on rows drawn from all classes."
        )


def checked_weights(weights: npt.ArrayLike | None, n: int) -> FloatArray:
    """Return weights as float64 of shape (n,) that sum to one; None means equal.

    Raises:
        ShapeError: Another length than n.
        WeightError: Negative, non-finite, or all zero.
    """
    if weights is None:
        return np.full(n, 1.0 / n)
    array = _as_float(weights, "weights")
    if array.shape != (n,):
        raise ShapeError(f"weights have shape {array.shape}; one per row is needed, shape ({n},).")
    if not np.all(np.isfinite(array)) or array.min() < 0.0:
        raise WeightError("weights must be finite and not negative.")
    largest = array.max()
    if largest == 0.0:
        raise WeightError("all weights are zero; at least one row must count.")
    array = array / largest
    normalised: FloatArray = array / array.sum()
    return normalised


def checked_answer_set(answer_set: npt.ArrayLike, array: FloatArray) -> BoolArray:
    """Return an answer set as booleans that fit an array of shape (n, k).

    Raises:
        ShapeError: Not booleans, or of another shape than (n, k) or (k,).
    """
    allowed = np.asarray(answer_set)
    if allowed.dtype != np.bool_ or allowed.shape not in (array.shape, array.shape[1:]):
        raise ShapeError(
            f"answer_set is {allowed.dtype} of shape {allowed.shape}; booleans of shape {array.shape} or "
            f"{array.shape[1:]} are needed, True where the option may be answered."
        )
    return allowed


def checked_probabilities(probabilities: npt.ArrayLike) -> FloatArray:
    """Return probabilities as float64 of shape (n, k); nothing is clipped or normalised.

    Raises:
        ShapeError: Not two-dimensional, or one column only.
        TooFewRowsError: No rows.
        NonFiniteError: NaN or infinite.
        ProbabilityError: Outside [0, 1], or a row further than 1e-4 from summing to one.
    """
    array = _as_float(probabilities, "probabilities")
    _check_matrix(array, "probabilities")
    _check_unit_range(array)
    error = np.abs(array.sum(axis=1) - 1.0)
    if error.max() > SUM_TOLERANCE:
        row = int(np.argmax(error))
        raise ProbabilityError(
            f"row {row} of the probabilities sums to {array[row].sum():.6g}, not to 1 (tolerance {SUM_TOLERANCE:g}). "
            "Pass a softmax over the answer set, computed in float32 or float64."
        )
    return array


def checked_binary_probabilities(probabilities: npt.ArrayLike) -> FloatArray:
    """Return P(y = 1) of shape (n,), from that shape or from (n, 2).

    Raises:
        ShapeError: Another shape.
        TooFewRowsError: No rows.
        NonFiniteError: NaN or infinite.
        ProbabilityError: Outside [0, 1], or rows of two that do not sum to one.
    """
    array = _as_float(probabilities, "probabilities")
    if array.ndim == 2 and array.shape[1] == 2:
        return checked_probabilities(array)[:, 1]
    if array.ndim != 1:
        raise ShapeError(f"binary probabilities have shape {array.shape}; (n,) for P(y = 1), or (n, 2), is needed.")
    if array.size == 0:
        raise TooFewRowsError("probabilities are empty; at least one row is needed.")
    _check_unit_range(array)
    return array


def checked_values(values: npt.ArrayLike, name: str, *, dimensions: int = 1) -> FloatArray:
    """Return finite float64 values with the given number of dimensions, not empty."""
    array = _as_float(values, name)
    if array.ndim != dimensions:
        raise ShapeError(f"{name} have shape {array.shape}; {dimensions} dimension(s) are needed.")
    if array.size == 0:
        raise TooFewRowsError(f"{name} are empty; at least one is needed.")
    if not np.all(np.isfinite(array)):
        _complain_non_finite(array, name, allowed="finite values")
    return array


def checked_count(value: int, name: str, *, minimum: int) -> int:
    """Return an integer option that is at least `minimum`.

    Raises:
        OptionError: Not an integer (a bool is not one), or too small.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise OptionError(f"{name} is {value!r}; an integer of at least {minimum} is needed.")
    return int(value)


def checked_share(value: float, name: str, *, including_one: bool = False) -> float:
    """Return a number above 0 and below 1 (or up to 1).

    Raises:
        OptionError: Not a number, or outside.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not (0.0 < value < 1.0 or (including_one and value == 1.0)):
        raise OptionError(f"{name} is {value!r}; a number in (0, 1{']' if including_one else ')'} is needed.")
    return float(value)


def checked_strength(value: float, name: str) -> float:
    """Return a finite number of at least 0.

    Raises:
        OptionError: Not a number, negative, or not finite.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0.0 <= value < np.inf:
        raise OptionError(f"{name} is {value!r}; a finite number of at least 0 is needed.")
    return float(value)


def checked_choice(value: str, name: str, allowed: Sequence[str]) -> str:
    """Return an option that must be one of the allowed names.

    Raises:
        OptionError: Another name.
    """
    if value not in allowed:
        raise OptionError(f"{name} is {value!r}; allowed are {', '.join(allowed)}.")
    return value


def effective_rows(weights: FloatArray) -> float:
    """Return Kish's effective number of rows, (sum w)^2 / sum w^2: n when all are equal."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def _as_float(values: npt.ArrayLike, name: str) -> FloatArray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"values of type {array.dtype}")
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{name} cannot be read as an array of real numbers: {error}.") from error


def _check_matrix(array: FloatArray, name: str) -> None:
    if array.ndim == 3:
        raise UnsupportedTaskError(
            f"{name} have shape {array.shape}: one row per example is needed, (n, k). Generation (a row per token) "
            "is not supported; pick the logits of the answer options first."
        )
    if array.ndim != 2:
        raise ShapeError(f"{name} have shape {array.shape}; two dimensions are needed, (n rows, k classes).")
    if array.shape[0] == 0:
        raise TooFewRowsError(f"{name} are empty; at least one row is needed.")
    if array.shape[1] == 1:
        raise UnsupportedTaskError(
            f"{name} have one column: a single value per row is regression, which is not supported. For a binary "
            "task pass both columns: (0, x) for a logit x, (1 - p, p) for a probability p."
        )
    if array.shape[1] == 0:
        raise ShapeError(f"{name} have no columns; at least two classes are needed.")


def _smallest_in_answer_set(logits: FloatArray) -> float:
    if np.any(logits.max(axis=1) == -np.inf):
        row = int(np.argmax(logits.max(axis=1) == -np.inf))
        raise LogitsError(f"row {row} has no option in its answer set; every row needs at least one.")
    return float(np.min(logits, where=logits != -np.inf, initial=np.inf))


def _check_unit_range(array: FloatArray) -> None:
    if not np.all(np.isfinite(array)):
        _complain_non_finite(array, "probabilities", allowed="finite values")
    if array.min() < 0.0 or array.max() > 1.0:
        raise ProbabilityError(
            f"probabilities range from {array.min():.6g} to {array.max():.6g}; 0 to 1 is allowed. "
            "Logits go through a softmax first."
        )


def _complain_non_finite(array: FloatArray, name: str, *, allowed: str) -> None:
    where = ~np.isfinite(array) & ~np.isneginf(array) if name == "logits" else ~np.isfinite(array)
    first = tuple(int(i) for i in np.argwhere(where)[0])
    raise NonFiniteError(
        f"{name} hold {array[first]} at {first} ({int(where.sum())} such values); {allowed} are needed. "
        "A run that diverged should be recorded as such, not scored."
    )
