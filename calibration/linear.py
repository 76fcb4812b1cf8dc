"""Calibrators that are linear in log-probabilities: vector, bias-corrected and Platt scaling.

Logits are defined up to a shift of each row, and only the temperature is blind to it. So the input here is
u = log softmax(z / T) with T fitted first: free of the shift, and on the scale of nats. Then

    vector           s_k = w_k u_k + b_k     2k numbers     Guo et al. 2017
    bias_corrected   s_k = w u_k + b_k       k + 1 numbers  Alexandari et al. 2020
    platt            s_1 - s_0 = w m + b     2 numbers      Platt 1999; two classes, m = z_1 - z_0

The first two are fitted with a ridge that pulls them to the temperature alone (w = 1, b = 0): a prior worth `ridge`
nats for a unit move, so it fades as 1/n. Platt's fit has no ridge, and his targets, (n_1 + 1) / (n_1 + 2) and
1 / (n_0 + 2), in its place. Each is a smooth convex problem, solved by Newton's method to machine precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.documents import Fields, headed
from calibration.errors import DocumentError, OptionError, ShapeError
from calibration.fitted_rows import FittedRows
from calibration.newton import LinearProblem
from calibration.rows import FloatArray, IntArray, checked_logits, effective_rows
from calibration.softmax import log_softmax, softmax
from calibration.temperature import solve_temperature

LinearKind: TypeAlias = Literal["vector", "bias_corrected", "platt"]


@dataclass(frozen=True)
class LinearFit:
    """A fitted vector, bias-corrected or Platt scaling.

    Attributes:
        kind: Which.
        temperature: T of u = log softmax(z / T); 1 for Platt.
        slopes: w, one for each class (all equal unless the kind is "vector").
        biases: b, one for each class; for Platt the first is 0.
        ridge: The strength of the prior that the fit had; 0 for Platt.
        n: Rows of the fit with a positive weight.
        fitted_on: The rows of the fit, which scores refuse.
    """

    kind: LinearKind
    temperature: float
    slopes: tuple[float, ...]
    biases: tuple[float, ...]
    ridge: float
    n: int
    fitted_on: FittedRows = field(default_factory=FittedRows)

    def apply(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return calibrated logits of shape (n, k); ``-inf`` outside the answer set. An argmax may change.

        Raises:
            CalibrationError: Logits that are not fit to use, or of another number of classes.
        """
        array = checked_logits(logits, answer_set)
        check_classes(array, len(self.slopes))
        u = log_softmax(array / self.temperature)
        inside = np.isfinite(u)
        scaled = np.where(inside, u, 0.0) * np.array(self.slopes) + np.array(self.biases)
        return np.where(inside, scaled, -np.inf)

    def probabilities(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return calibrated probabilities of shape (n, k); exactly 0 outside the answer set.

        Raises:
            CalibrationError: Logits that are not fit to use, or of another number of classes.
        """
        return softmax(self.apply(logits, answer_set))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document with a schema version."""
        return headed(
            self.kind,
            {
                "temperature": self.temperature,
                "slopes": list(self.slopes),
                "biases": list(self.biases),
                "ridge": self.ridge,
                "n": self.n,
                "fitted_on": self.fitted_on.to_json(),
            },
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LinearFit:
        """Return the fit that `to_json` wrote.

        Raises:
            DocumentError: Another version or kind, unknown or missing keys, or values out of range.
        """
        fields = Fields.headed(
            document, get_args(LinearKind), {"temperature", "slopes", "biases", "ridge", "n", "fitted_on"}
        )
        slopes, biases = fields.numbers("slopes"), fields.numbers("biases")
        if len(slopes) != len(biases) or len(slopes) < 2:
            raise DocumentError(f"{len(slopes)} slopes and {len(biases)} biases: one of each is needed for each class.")
        kind: Any = fields.text("kind")
        return cls(
            kind=kind,
            temperature=fields.number("temperature", above=0.0),
            slopes=slopes,
            biases=biases,
            ridge=fields.number("ridge", at_least=0.0),
            n=fields.integer("n", minimum=1),
            fitted_on=FittedRows.from_json(fields.document("fitted_on")),
        )


def fit_vector(array: FloatArray, targets: IntArray, share: FloatArray, ridge: float, rows: FittedRows) -> LinearFit:
    """Fit a slope and a bias for each class, to checked arrays."""
    k = array.shape[1]
    return _fit_ridged("vector", array, targets, share, ridge, rows, np.eye(2 * k))


def fit_bias_corrected(
    array: FloatArray, targets: IntArray, share: FloatArray, ridge: float, rows: FittedRows
) -> LinearFit:
    """Fit one slope and a bias for each class, to checked arrays."""
    k = array.shape[1]
    basis = np.zeros((2 * k, k + 1))
    basis[:k, 0] = 1.0
    basis[k:, 1:] = np.eye(k)
    return _fit_ridged("bias_corrected", array, targets, share, ridge, rows, basis)


def fit_platt(array: FloatArray, targets: IntArray, share: FloatArray, rows: FittedRows) -> LinearFit:
    """Fit a slope and a bias to the margin of two classes, to checked arrays.

    Raises:
        OptionError: More than two classes, or rows with one option.
    """
    if array.shape[1] != 2:
        raise OptionError(f"Platt scaling is for two classes; these logits have {array.shape[1]}. Use 'vector'.")
    if not np.all(np.isfinite(array)):
        raise OptionError("Platt scaling needs both options in every row's answer set. Use 'temperature'.")
    u = array - array.mean(axis=1, keepdims=True)
    goals = _platt_targets(targets, share)
    basis = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    problem = LinearProblem(u, goals, share, basis, np.zeros(2), ridge=0.0)
    slope, bias = problem.solve().tolist()
    return LinearFit("platt", 1.0, (slope, slope), (0.0, bias), 0.0, targets.size, rows)


def check_classes(array: FloatArray, k: int) -> None:
    """Raise ShapeError when logits have another number of classes than the fit had."""
    if array.shape[1] != k:
        raise ShapeError(f"logits have {array.shape[1]} classes; the calibrator was fitted on {k}.")


def _fit_ridged(
    kind: LinearKind,
    array: FloatArray,
    targets: IntArray,
    share: FloatArray,
    ridge: float,
    rows: FittedRows,
    basis: FloatArray,
) -> LinearFit:
    k = array.shape[1]
    temperature = solve_temperature(array, targets, share)
    goals = np.eye(k)[targets]
    prior = np.append(np.ones(basis.shape[1] - k), np.zeros(k))
    strength = ridge / effective_rows(share)
    u = log_softmax(array / temperature)
    solution = basis @ LinearProblem(u, goals, share, basis, prior, strength).solve()
    slopes, biases = tuple(solution[:k].tolist()), tuple(solution[k:].tolist())
    return LinearFit(kind, temperature, slopes, biases, ridge, targets.size, rows)


def _platt_targets(targets: IntArray, share: FloatArray) -> FloatArray:
    positives = effective_rows(share) * float(share @ (targets == 1))
    negatives = effective_rows(share) - positives
    goal = np.where(targets == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    return np.column_stack([1.0 - goal, goal])
