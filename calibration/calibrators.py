"""The calibrators under one roof: fit by name, read from JSON, score on rows that were held out.

    temperature      1 number           any number of rows          keeps every argmax
    bias_corrected   k + 1 numbers      from 50 rows a number
    platt            2 numbers          from 50 rows a number       two classes only
    vector           2k numbers         from 50 rows a number
    histogram        k curves           from 10,000 rows
    isotonic         k curves           from 10,000 rows

Fewer rows than that, and the calibrator learns the rows (`calibration.choice` holds to it). A fitted calibrator may be
applied to anything, which is what it is for; it may be *scored* only on rows that it was not fitted on. The way
from a calibrator to probabilities that are scored is `held_out_probabilities`, which refuses the others; the way
without other rows is `calibration.cross_fitting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.errors import DocumentError
from calibration.fitted_rows import FittedRows, Ids
from calibration.linear import LinearFit, LinearKind, fit_bias_corrected, fit_platt, fit_vector
from calibration.one_vs_rest import CurveKind, OneVsRestFit, fit_histogram, fit_isotonic
from calibration.rows import (
    FloatArray,
    IntArray,
    check_several_classes,
    checked_choice,
    checked_count,
    checked_logits,
    checked_strength,
    checked_weights,
)
from calibration.softmax import log_softmax
from calibration.temperature import TemperatureFit, fit_rows, labelled_logits

Kind: TypeAlias = Literal["temperature", "bias_corrected", "platt", "vector", "histogram", "isotonic"]
"""The kinds, simplest first."""


class Calibrator(Protocol):
    """What every fitted calibrator can do. Frozen, and equal when its JSON is."""

    @property
    def kind(self) -> str:
        """Its name."""

    @property
    def n(self) -> int:
        """Rows of the fit with a positive weight."""

    @property
    def fitted_on(self) -> FittedRows:
        """The rows of the fit, which scores refuse."""

    def apply(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return calibrated logits of shape (n, k)."""

    def probabilities(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return calibrated probabilities of shape (n, k)."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document, which `calibrator_from_json` reads."""


@dataclass(frozen=True)
class FitOptions:
    """What the richer calibrators may be told; checked when made.

    Attributes:
        ridge: "vector" and "bias_corrected": the pull to the temperature alone, at least 0.
        bins: "histogram": how many steps, at least 1.
        smoothing: "histogram" and "isotonic": pseudo-rows that keep probabilities from 0, at least 0.

    Raises:
        OptionError: One is out of range.
    """

    ridge: float = 1.0
    bins: int = 15
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        checked_count(self.bins, "bins", minimum=1)
        checked_strength(self.ridge, "ridge")
        checked_strength(self.smoothing, "smoothing")


DEFAULT_OPTIONS = FitOptions()


def fit_calibrator(
    kind: Kind,
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    answer_set: npt.ArrayLike | None = None,
    ids: Ids | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
) -> Calibrator:
    """Fit one calibrator, whatever the number of rows; `calibration.choice` picks one that suits it.

    Args:
        kind: Which calibrator.
        logits: Raw logits of shape (n, k), k >= 2; ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        weights: Optional, shape (n,), not negative; only their proportions matter.
        answer_set: Optional booleans of shape (n, k) or (k,), True where the option may be answered.
        ids: Optional ids of the rows, kept as hashes so that later scores refuse these rows exactly.
        options: What the richer calibrators may be told.

    Raises:
        CalibrationError: As `fit_temperature`; an unknown kind; "platt" with more than two classes.
    """
    checked_choice(kind, "kind", get_args(Kind))
    array, targets = labelled_logits(logits, labels, answer_set)
    share = checked_weights(weights, targets.size)
    counted = share > 0.0
    check_several_classes(targets[counted])
    rows = FittedRows.of(array, ids)
    return fit_checked(kind, array[counted], targets[counted], share[counted], options, rows)


def fit_checked(
    kind: Kind, array: FloatArray, targets: IntArray, share: FloatArray, options: FitOptions, rows: FittedRows
) -> Calibrator:
    """Fit one calibrator to checked arrays with positive weights."""
    if kind == "temperature":
        return fit_rows(array, targets, share, rows)
    if kind == "bias_corrected":
        return fit_bias_corrected(array, targets, share, options.ridge, rows)
    if kind == "vector":
        return fit_vector(array, targets, share, options.ridge, rows)
    if kind == "platt":
        return fit_platt(array, targets, share, rows)
    if kind == "histogram":
        return fit_histogram(array, targets, share, options.bins, options.smoothing, rows)
    return fit_isotonic(array, targets, share, options.smoothing, rows)


def calibrator_from_json(document: dict[str, Any]) -> Calibrator:
    """Return the calibrator that some `to_json` wrote.

    Raises:
        DocumentError: Not an object, of another version or kind, or with wrong fields.
    """
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == TemperatureFit.kind:
        return TemperatureFit.from_json(document)
    if kind in get_args(LinearKind):
        return LinearFit.from_json(document)
    if kind in get_args(CurveKind):
        return OneVsRestFit.from_json(document)
    raise DocumentError(f"the document's kind is {kind!r}; a calibrator's is one of {', '.join(get_args(Kind))}.")


def held_out_log_probabilities(
    calibrator: Calibrator,
    logits: npt.ArrayLike,
    *,
    answer_set: npt.ArrayLike | None = None,
    ids: Ids | None = None,
) -> FloatArray:
    """Return calibrated log-probabilities, shape (n, k), of rows that may be scored: those not fitted on.

    Args:
        calibrator: A fitted calibrator.
        logits: Raw logits of shape (n, k).
        answer_set: Optional booleans of shape (n, k) or (k,).
        ids: The rows' ids; needed when the fit had ids.

    Raises:
        SeenRowsError: The rows are rows of the fit; `calibration.fitted_rows` says how that is told.
        CalibrationError: Logits that are not fit to use.
    """
    array = checked_logits(logits, answer_set)
    calibrator.fitted_on.refuse(array, ids)
    return log_softmax(calibrator.apply(array))


def held_out_probabilities(
    calibrator: Calibrator,
    logits: npt.ArrayLike,
    *,
    answer_set: npt.ArrayLike | None = None,
    ids: Ids | None = None,
) -> FloatArray:
    """Return the probabilities of `held_out_log_probabilities`; exactly 0 outside the answer set."""
    return np.exp(held_out_log_probabilities(calibrator, logits, answer_set=answer_set, ids=ids))
