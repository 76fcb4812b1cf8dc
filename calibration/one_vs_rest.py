"""Calibrators that map each class's probability on its own: isotonic and histogram.

For each class, a curve from p_k = softmax(z / T)_k (T fitted first, so that sure rows are not all exactly 1) to how
often y = k; then the row is normalised over its answer set (Zadrozny & Elkan 2001, 2002). They assume little and need
many rows.

    isotonic    the best non-decreasing curve, straight between its corners, flat beyond them
    histogram   steps: the frequency in each of `bins` bins of equal weight

Such curves touch 0, and a probability of 0 costs an infinite NLL when it is wrong. So a curve's values y become
(n y + smoothing / k) / (n + smoothing): `smoothing` pseudo-rows (one, unless told otherwise) spread evenly over the
classes. With `smoothing=0` the textbook curve is left as it is; a row whose values are then all 0 becomes even.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.binning import equal_mass
from calibration.documents import Fields, headed
from calibration.errors import DocumentError
from calibration.fitted_rows import FittedRows
from calibration.linear import check_classes
from calibration.outcomes import Outcomes, one_class
from calibration.rows import FloatArray, IntArray, checked_logits
from calibration.softmax import softmax
from calibration.temperature import solve_temperature

CurveKind: TypeAlias = Literal["isotonic", "histogram"]


@dataclass(frozen=True)
class Curve:
    """A map from a probability to a frequency, for one class.

    Attributes:
        x: Isotonic: the corners, ascending. Histogram: the inner edges between bins, one fewer than `y`.
        y: Isotonic: the height at each corner. Histogram: the height of each bin.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class OneVsRestFit:
    """A fitted isotonic or histogram calibrator.

    Attributes:
        kind: Which.
        temperature: T of softmax(z / T), the curves' input.
        curves: One for each class, before smoothing.
        smoothing: Pseudo-rows spread evenly over the classes, at least 0.
        n: Rows of the fit with a positive weight.
        fitted_on: The rows of the fit, which scores refuse.
    """

    kind: CurveKind
    temperature: float
    curves: tuple[Curve, ...]
    smoothing: float
    n: int
    fitted_on: FittedRows = field(default_factory=FittedRows)

    def apply(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return log-probabilities of shape (n, k); ``-inf`` outside the answer set. An argmax may change.

        Raises:
            CalibrationError: Logits that are not fit to use, or of another number of classes.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.probabilities(logits, answer_set))

    def probabilities(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return calibrated probabilities of shape (n, k); exactly 0 outside the answer set.

        Raises:
            CalibrationError: Logits that are not fit to use, or of another number of classes.
        """
        array = checked_logits(logits, answer_set)
        check_classes(array, len(self.curves))
        p = softmax(array / self.temperature)
        raw = np.column_stack([self._height(curve, p[:, k]) for k, curve in enumerate(self.curves)])
        smooth = (self.n * raw + self.smoothing / len(self.curves)) / (self.n + self.smoothing)
        return _normalised(smooth, np.isfinite(array))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document with a schema version."""
        return headed(
            self.kind,
            {
                "temperature": self.temperature,
                "curves": [{"x": list(curve.x), "y": list(curve.y)} for curve in self.curves],
                "smoothing": self.smoothing,
                "n": self.n,
                "fitted_on": self.fitted_on.to_json(),
            },
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> OneVsRestFit:
        """Return the fit that `to_json` wrote.

        Raises:
            DocumentError: Another version or kind, unknown or missing keys, or values out of range.
        """
        fields = Fields.headed(document, get_args(CurveKind), {"temperature", "curves", "smoothing", "n", "fitted_on"})
        kind: Any = fields.text("kind")
        return cls(
            kind=kind,
            temperature=fields.number("temperature", above=0.0),
            curves=tuple(_read_curve(item, kind) for item in fields.items("curves")),
            smoothing=fields.number("smoothing", at_least=0.0),
            n=fields.integer("n", minimum=1),
            fitted_on=FittedRows.from_json(fields.document("fitted_on")),
        )

    def _height(self, curve: Curve, p: FloatArray) -> FloatArray:
        if self.kind == "isotonic":
            return np.interp(p, curve.x, curve.y)
        heights: FloatArray = np.array(curve.y)[np.searchsorted(np.array(curve.x), p, side="left")]
        return heights


def fit_isotonic(
    array: FloatArray, targets: IntArray, share: FloatArray, smoothing: float, rows: FittedRows
) -> OneVsRestFit:
    """Fit a non-decreasing curve for each class, to checked arrays."""
    temperature = solve_temperature(array, targets, share)
    p = softmax(array / temperature)
    curves = tuple(_isotonic_curve(one_class(p, targets, share, k)) for k in range(p.shape[1]))
    return OneVsRestFit("isotonic", temperature, curves, smoothing, targets.size, rows)


def fit_histogram(
    array: FloatArray, targets: IntArray, share: FloatArray, bins: int, smoothing: float, rows: FittedRows
) -> OneVsRestFit:
    """Fit a step curve for each class, to checked arrays."""
    temperature = solve_temperature(array, targets, share)
    p = softmax(array / temperature)
    curves = tuple(_histogram_curve(one_class(p, targets, share, k), bins) for k in range(p.shape[1]))
    return OneVsRestFit("histogram", temperature, curves, smoothing, targets.size, rows)


def _isotonic_curve(outcomes: Outcomes) -> Curve:
    from scipy.optimize import isotonic_regression  # scipy takes longer to import than everything else here

    x, inverse = np.unique(outcomes.probability, return_inverse=True)
    mass = np.bincount(inverse, weights=outcomes.share)
    frequency = np.bincount(inverse, weights=outcomes.share * outcomes.happened) / mass
    y = np.clip(isotonic_regression(np.minimum(frequency, 1.0), weights=mass).x, 0.0, 1.0)
    # Inside a flat stretch nothing turns: its two ends draw the same curve.
    corner = np.ones(x.size, dtype=bool)
    corner[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return Curve(tuple(x[corner].tolist()), tuple(y[corner].tolist()))


def _histogram_curve(outcomes: Outcomes, bins: int) -> Curve:
    table = equal_mass(outcomes, bins)
    ascending = outcomes.probability[table.order]
    edges = 0.5 * (ascending[table.starts[1:] - 1] + ascending[table.starts[1:]])
    return Curve(tuple(edges.tolist()), tuple(table.frequency(outcomes.happened).tolist()))


def _normalised(values: FloatArray, inside: npt.NDArray[np.bool_]) -> FloatArray:
    kept = np.where(inside, values, 0.0)
    total = kept.sum(axis=1, keepdims=True)
    even = inside / inside.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, kept / np.where(total > 0.0, total, 1.0), even)


def _read_curve(item: Any, kind: str) -> Curve:
    fields = Fields(item, "a curve", {"x", "y"})
    curve = Curve(fields.numbers("x", least=0 if kind == "histogram" else 1), fields.numbers("y"))
    expected = len(curve.y) - 1 if kind == "histogram" else len(curve.y)
    if len(curve.x) != expected or np.any(np.diff(curve.x) < 0.0):
        raise DocumentError(f"a curve has {len(curve.x)} x and {len(curve.y)} y; {expected} ascending x are needed.")
    if min(curve.y) < 0.0 or max(curve.y) > 1.0:
        raise DocumentError("a curve leaves [0, 1]; its y are frequencies.")
    return curve
