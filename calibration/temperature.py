"""Temperature scaling, solved rather than descended.

Divide the logits by one number T > 0, chosen to minimise the mean negative log-likelihood (Guo et al. 2017). The
likelihood is convex in beta = 1/T (not in T), and its slope is

    d NLL / d beta = mean_i ( E_p[z_i] - z_iy ),     p = softmax(beta z_i),

which grows with beta. So the optimum is the root of one monotone function, and is bracketed: beta in [1/100, 20]. The
solver looks at the ends first and says, as the fit's `status`, when there is no root inside:

    ok                 the root lies inside the bounds
    separable          every label has its row's largest logit: NLL falls for ever as T -> 0; T is 0.05
    anti_correlated    labels go against the logits, or ignore them: NLL is least at beta <= 0; T is 100
    constant           the logits of each row are all equal: T changes nothing; T is 1
    at_lower_bound     the root exists, below T = 0.05; T is 0.05
    at_upper_bound     the root exists, above T = 100; T is 100

Everything is float64, with each row's maximum subtracted and options outside the answer set removed. The fit is
deterministic, does not depend on the order of rows or classes, and leaves every argmax as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.documents import Fields, headed
from calibration.fitted_rows import FittedRows, Ids
from calibration.folds import check_rows_to_fit, stratified_folds
from calibration.rows import (
    FloatArray,
    IntArray,
    check_labels_answerable,
    check_several_classes,
    checked_labels,
    checked_logits,
    checked_weights,
    effective_rows,
    refuse_probabilities,
)
from calibration.softmax import softmax

Status: TypeAlias = Literal["ok", "separable", "anti_correlated", "constant", "at_lower_bound", "at_upper_bound"]

T_MIN = 0.05
T_MAX = 100.0

_STEP_TOLERANCE = 1e-8
_MAX_STEPS = 200


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        temperature: T, in [0.05, 100].
        standard_error: Of T, from the Fisher information at the optimum and the delta method; weighted rows count
            by Kish's effective number. None unless the status is "ok": at a boundary there is none.
        status: "ok", or why T is not an interior optimum; the module's docstring lists them.
        nll_before: Mean negative log-likelihood (nats) of the rows of the fit at T = 1.
        nll_after: The same at T. Both say how the fit went, on its own rows; they are no estimate of its quality.
            For that use `cross_fitted_nll` or other rows.
        n: Rows with a positive weight.
        fitted_on: The rows of the fit, which scores refuse; see `calibration.fitted_rows`.
    """

    temperature: float
    standard_error: float | None
    status: Status
    nll_before: float
    nll_after: float
    n: int
    fitted_on: FittedRows = field(default_factory=FittedRows)

    kind = "temperature"

    def apply(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return logits / T of shape (n, k); ``-inf`` outside the answer set.

        Raises:
            CalibrationError: The logits are not fit to use; see `calibration.rows.checked_logits`.
        """
        return checked_logits(logits, answer_set) / self.temperature

    def probabilities(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> FloatArray:
        """Return softmax(logits / T) of shape (n, k); exactly 0 outside the answer set.

        Raises:
            CalibrationError: The logits are not fit to use; see `calibration.rows.checked_logits`.
        """
        return softmax(self.apply(logits, answer_set))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document with a schema version."""
        return headed(
            self.kind,
            {
                "temperature": self.temperature,
                "standard_error": self.standard_error,
                "status": self.status,
                "nll_before": self.nll_before,
                "nll_after": self.nll_after,
                "n": self.n,
                "fitted_on": self.fitted_on.to_json(),
            },
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TemperatureFit:
        """Return the fit that `to_json` wrote.

        Raises:
            DocumentError: Another version or kind, unknown or missing keys, or values out of range.
        """
        names = {"temperature", "standard_error", "status", "nll_before", "nll_after", "n", "fitted_on"}
        fields = Fields.headed(document, (cls.kind,), names)
        status: Any = fields.choice("status", get_args(Status))
        return cls(
            temperature=fields.number("temperature", above=0.0),
            standard_error=fields.number_or_none("standard_error"),
            status=status,
            nll_before=fields.number("nll_before"),
            nll_after=fields.number("nll_after"),
            n=fields.integer("n", minimum=1),
            fitted_on=FittedRows.from_json(fields.document("fitted_on")),
        )


def fit_temperature(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    answer_set: npt.ArrayLike | None = None,
    ids: Ids | None = None,
) -> TemperatureFit:
    """Fit one temperature to labelled logits.

    Args:
        logits: Raw logits of shape (n, k), k >= 2; ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        weights: Optional, shape (n,), not negative; only their proportions matter. Rows of weight 0 are left out.
        answer_set: Optional booleans of shape (n, k) or (k,), True where the option may be answered.
        ids: Optional ids of the rows, kept as hashes so that later scores refuse these rows exactly.

    Raises:
        CalibrationError: Empty, NaN, +inf, probabilities instead of logits, labels out of range or outside their
            answer set, labels of one class only, weights that are negative or all zero; a subclass for each.
    """
    array, targets = labelled_logits(logits, labels, answer_set)
    share = checked_weights(weights, len(array))
    counted = share > 0.0
    check_several_classes(targets[counted])
    fitted_on = FittedRows.of(array, ids)
    if not counted.all():
        array, targets, share = array[counted], targets[counted], share[counted]
    return fit_rows(array, targets, share, fitted_on)


def cross_fitted_nll(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    folds: int = 5,
    seed: int = 0,
    *,
    weights: npt.ArrayLike | None = None,
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
) -> float:
    """Return the mean NLL (nats) with each fold scaled by the temperature fitted on the others.

    The loss to select and to stop on ("refine, then calibrate", Berta et al. 2025): it does not punish a candidate
    for over-confidence that scaling removes, and no row is scored by a temperature that it took part in. Folds are
    stratified and depend on labels and seed alone, so that candidates on the same rows are compared on the same folds.

    Args:
        logits: Raw logits of shape (n, k); ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        folds: How many, 2 to n.
        seed: Decides the folds.
        weights: Optional, shape (n,), not negative; only their proportions matter. Rows of weight 0 are left out, once
            they have their fold.
        answer_set: Optional booleans of shape (n, k) or (k,).
        groups: Optional, shape (n,): rows of one group stay in one fold.

    Raises:
        CalibrationError: As `fit_temperature`; more folds than rows or groups; all the weight in one fold.
    """
    array, targets = labelled_logits(logits, labels, answer_set)
    share = checked_weights(weights, len(array))
    counted = share > 0.0
    check_several_classes(targets[counted])
    fold = stratified_folds(targets, folds, seed, groups)[counted]
    problem = _Problem.of(array[counted], targets[counted], share[counted])
    total = 0.0
    for number in np.unique(fold):
        held_out = fold == number
        check_rows_to_fit(~held_out)
        beta = _solve(problem.rows(~held_out)).beta
        total += problem.rows(held_out).at(beta).nll * float(problem.shares[held_out].sum())
    return total


def labelled_logits(
    logits: npt.ArrayLike, labels: npt.ArrayLike, answer_set: npt.ArrayLike | None = None
) -> tuple[FloatArray, IntArray]:
    """Return checked logits and labels that fit together; probabilities given as logits are refused."""
    array = checked_logits(logits, answer_set)
    targets = checked_labels(labels, *array.shape)
    refuse_probabilities(array)
    check_labels_answerable(array, targets)
    return array, targets


def fit_rows(array: FloatArray, targets: IntArray, share: FloatArray, fitted_on: FittedRows) -> TemperatureFit:
    """Fit checked arrays with positive weights, for code that has checked them."""
    problem = _Problem.of(array, targets, share)
    beta, status = _solve(problem)
    before, after = problem.at(1.0), problem.at(beta)
    return TemperatureFit(
        temperature=1.0 / beta,
        standard_error=_standard_error(problem, beta, after.variance) if status == "ok" else None,
        status=status,
        nll_before=before.nll,
        nll_after=after.nll,
        n=problem.picked.size,
        fitted_on=fitted_on,
    )


def solve_temperature(array: FloatArray, targets: IntArray, share: FloatArray) -> float:
    """Return the temperature of checked arrays, for calibrators that build on it."""
    return 1.0 / _solve(_Problem.of(array, targets, share)).beta


class _Moments(NamedTuple):
    nll: float
    slope: float
    variance: float
    regret: float


@dataclass(frozen=True)
class _Problem:
    """Rows ready to be solved, class-major: sums over classes then run along contiguous memory.

    `gaps` is each logit less its row's maximum, ``-inf`` outside the answer set; `finite` the same with 0 there
    (its probability is 0, and 0 * -inf would be NaN); `picked` the label's gap; `shares` sum to one.
    """

    gaps: FloatArray
    finite: FloatArray
    picked: FloatArray
    shares: FloatArray

    @classmethod
    def of(cls, logits: FloatArray, labels: IntArray, weights: FloatArray) -> _Problem:
        gaps = np.ascontiguousarray(logits.T)
        gaps = gaps - gaps.max(axis=0)
        outside = np.isneginf(gaps)
        finite = np.where(outside, 0.0, gaps) if outside.any() else gaps
        return cls(gaps, finite, gaps[labels, np.arange(labels.size)], weights / weights.sum())

    def rows(self, chosen: npt.NDArray[np.bool_]) -> _Problem:
        gaps, finite = self.gaps[:, chosen], self.finite[:, chosen]
        shares = self.shares[chosen]
        return _Problem(gaps, finite, self.picked[chosen], shares / shares.sum())

    def at(self, beta: float) -> _Moments:
        """Return NLL, its slope in beta, the mean variance of z, and mean(max z - E_p[z]), at beta."""
        powers = self.gaps * beta
        np.exp(powers, out=powers)
        total = powers.sum(axis=0)
        powers *= self.finite
        first = powers.sum(axis=0) / total
        second = np.einsum("kn,kn->n", powers, self.finite) / total
        return _Moments(
            nll=float(self.shares @ (np.log(total) - beta * self.picked)),
            slope=float(self.shares @ (first - self.picked)),
            variance=float(self.shares @ np.maximum(second - first * first, 0.0)),
            regret=float(-(self.shares @ first)),
        )

    def slope_at_zero(self) -> float:
        """Return d NLL / d beta at beta = 0, where p is uniform over each answer set."""
        options = np.isfinite(self.gaps).sum(axis=0)
        return float(self.shares @ (self.finite.sum(axis=0) / options - self.picked))


class _Solution(NamedTuple):
    beta: float
    status: Status


def _standard_error(problem: _Problem, beta: float, variance: float) -> float | None:
    information = effective_rows(problem.shares) * variance
    return None if information <= 0.0 else 1.0 / (beta * beta * math.sqrt(information))


def _solve(problem: _Problem) -> _Solution:
    """Return the optimal beta within the bounds, after a look at the ends.

    The slope grows with beta: where it is negative at T = 1, it is negative at the flat end too, and only the sharp end
    is left to look at; where it is positive, the other way round.
    """
    if problem.finite.min() == 0.0:
        return _Solution(1.0, "constant")
    if -float(problem.shares @ problem.picked) == 0.0:
        return _Solution(1.0 / T_MIN, "separable")
    if problem.slope_at_zero() >= 0.0:
        return _Solution(1.0 / T_MAX, "anti_correlated")
    start = problem.at(1.0)
    if start.slope < 0.0 and problem.at(1.0 / T_MIN).slope <= 0.0:
        return _Solution(1.0 / T_MIN, "at_lower_bound")
    if start.slope >= 0.0 and problem.at(1.0 / T_MAX).slope >= 0.0:
        return _Solution(1.0 / T_MAX, "at_upper_bound")
    return _Solution(_root(problem, start), "ok")


def _root(problem: _Problem, start: _Moments) -> float:
    """Return the beta in the bounds at which mean(max z - E_p[z]) equals mean(max z - z_y), from moments at beta = 1.

    The left side falls with beta, nearly as a power of it: Newton steps on log against log, kept inside a bracket
    that is halved whenever a step would leave it.
    """
    target = -float(problem.shares @ problem.picked)
    low, high = -math.log(T_MAX), -math.log(T_MIN)
    x, moments = 0.0, start
    for _ in range(_MAX_STEPS):
        low, high = (x, high) if moments.slope < 0.0 else (low, x)
        step = _newton_step(moments, math.exp(x), target)
        if abs(step) <= _STEP_TOLERANCE:
            # Newton's error is squared: this step ends within rounding of the root, on whichever side of the bracket.
            return math.exp(x + step)
        x = x + step if low <= x + step <= high else 0.5 * (low + high)
        moments = problem.at(math.exp(x))
    return math.exp(x)


def _newton_step(moments: _Moments, beta: float, target: float) -> float:
    steepness = beta * moments.variance
    if moments.regret <= 0.0 or steepness <= 0.0:
        return math.nan
    return math.log(moments.regret / target) * moments.regret / steepness
