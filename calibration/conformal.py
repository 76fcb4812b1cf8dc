"""Split conformal sets: answers given as sets of classes that hold the true one with a promised frequency.

A score says how little a class suits a row; the threshold is the ceil((n + 1)(1 - alpha))-th smallest score of the
labels of n calibration rows; a row's set is every class that scores no more. If rows are exchangeable, the set holds
the label with probability at least 1 - alpha, whatever the model, and at most 1/(n + 1) more when scores have no ties
(Vovk et al. 2005).

    lac    1 - p_y: smallest sets on average                                    Sadinle et al. 2019
    aps    sum of the p above p_y, plus u p_y: adapts to the row's difficulty   Romano et al. 2020

u is uniform on [0, 1), as APS needs for its exact coverage; here it is a hash of the row's probabilities and the fit's
seed. So the same row gets the same set, alone or in any batch, and the promise holds as for any fixed score.
`randomized=False` puts u = 1: larger sets, no chance in them. Sets may be empty: the row is unlike the others.
Among equal probabilities, the first class stands above.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.documents import Fields, headed
from calibration.errors import ShapeError, TooFewRowsError
from calibration.fitted_rows import FittedRows, Ids, unit_uniforms
from calibration.folds import stratified_folds
from calibration.rows import (
    BoolArray,
    FloatArray,
    IntArray,
    checked_answer_set,
    checked_choice,
    checked_count,
    checked_labels,
    checked_probabilities,
    checked_share,
)

Method: TypeAlias = Literal["lac", "aps"]


@dataclass(frozen=True)
class Coverage:
    """How conformal sets did on rows that they were not fitted on.

    Attributes:
        coverage: Part of the rows whose set holds the label.
        low: Lower end of the exact (Clopper-Pearson) 95 % interval of that part.
        high: Its upper end.
        promised: 1 - alpha.
        mean_size: Mean number of classes in a set.
        empty: Part of the rows with an empty set.
        by_class: Coverage of the rows of each class; None for a class without rows.
        by_size: Coverage of the rows with sets of each size that occurs.
        n: Rows.
    """

    coverage: float
    low: float
    high: float
    promised: float
    mean_size: float
    empty: float
    by_class: tuple[float | None, ...]
    by_size: dict[int, float]
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        document = asdict(self)
        return {
            **document,
            "by_class": list(self.by_class),
            "by_size": {str(size): value for size, value in self.by_size.items()},
        }


@dataclass(frozen=True)
class ConformalFit:
    """A fitted threshold.

    Attributes:
        method: "lac" or "aps".
        alpha: The promised miss rate.
        threshold: The largest score inside a set.
        randomized: Whether APS draws its u.
        seed: Of the u.
        classes: Number of classes.
        n: Calibration rows.
        fitted_on: These rows, by their probabilities or ids; `evaluate` refuses them.
    """

    method: Method
    alpha: float
    threshold: float
    randomized: bool
    seed: int
    classes: int
    n: int
    fitted_on: FittedRows = field(default_factory=FittedRows)

    def sets(self, probabilities: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> BoolArray:
        """Return the sets as booleans of shape (n, k), True for a class in the row's set.

        Args:
            probabilities: Shape (n, k).
            answer_set: Optional booleans of shape (n, k) or (k,): options outside it are in no set.

        Raises:
            CalibrationError: Probabilities that are not fit to use, or of another number of classes.
        """
        array = checked_probabilities(probabilities)
        if array.shape[1] != self.classes:
            raise ShapeError(f"probabilities have {array.shape[1]} classes; the sets were fitted on {self.classes}.")
        inside: BoolArray = _scores(array, self.method, self.randomized, self.seed) <= self.threshold
        return inside if answer_set is None else inside & checked_answer_set(answer_set, array)

    def evaluate(
        self,
        probabilities: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        answer_set: npt.ArrayLike | None = None,
        ids: Ids | None = None,
    ) -> Coverage:
        """Return the coverage on rows that were not fitted on.

        Args:
            probabilities: Shape (n, k).
            labels: Class indices of shape (n,).
            answer_set: Optional booleans of shape (n, k) or (k,): options outside it are in no set.
            ids: The rows' ids; needed when the fit had ids.

        Raises:
            SeenRowsError: The rows are rows of the fit.
            CalibrationError: Arrays that are not fit to use.
        """
        array = checked_probabilities(probabilities)
        targets = checked_labels(labels, *array.shape)
        self.fitted_on.refuse(array, ids)
        return _coverage(self.sets(array, answer_set), targets, 1.0 - self.alpha)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document with a schema version."""
        fields = asdict(self)
        del fields["method"]
        return headed(self.method, {**fields, "fitted_on": self.fitted_on.to_json()})

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ConformalFit:
        """Return the fit that `to_json` wrote.

        Raises:
            DocumentError: Another version or kind, unknown or missing keys, or values out of range.
        """
        names = {"alpha", "threshold", "randomized", "seed", "classes", "n", "fitted_on"}
        fields = Fields.headed(document, get_args(Method), names)
        method: Any = fields.text("kind")
        return cls(
            method=method,
            alpha=fields.number("alpha", above=0.0, below=1.0),
            threshold=fields.number("threshold"),
            randomized=fields.flag("randomized"),
            seed=fields.integer("seed", minimum=0),
            classes=fields.integer("classes", minimum=2),
            n=fields.integer("n", minimum=1),
            fitted_on=FittedRows.from_json(fields.document("fitted_on")),
        )


def fit_conformal(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    alpha: float = 0.1,
    method: Method = "lac",
    *,
    randomized: bool = True,
    seed: int = 0,
    ids: Ids | None = None,
) -> ConformalFit:
    """Fit the threshold of split conformal sets.

    The probabilities must not come from a calibrator that was fitted on these rows, or the promise is off by what it
    learned of them: use `held_out_probabilities` or `cross_fitted_probabilities`.

    Args:
        probabilities: Shape (n, k).
        labels: Class indices of shape (n,).
        alpha: The miss rate to promise, in (0, 1).
        method: "lac" or "aps".
        randomized: APS only: whether the label's own probability counts in a random part.
        seed: Of these parts.
        ids: Optional ids of the rows, kept as hashes so that `evaluate` refuses these rows exactly.

    Raises:
        TooFewRowsError: Fewer than 1 / alpha - 1 rows: no threshold could promise so much.
        CalibrationError: Arrays or options that are not fit to use.
    """
    array = checked_probabilities(probabilities)
    targets = checked_labels(labels, *array.shape)
    checked_share(alpha, "alpha")
    checked_choice(method, "method", get_args(Method))
    checked_count(seed, "seed", minimum=0)
    scores = _scores(array, method, randomized, seed)[np.arange(targets.size), targets]
    threshold = _threshold(scores, alpha)
    rows = FittedRows.of(array, ids)
    return ConformalFit(method, float(alpha), threshold, bool(randomized), seed, array.shape[1], targets.size, rows)


def crossed_coverage(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    alpha: float = 0.1,
    method: Method = "lac",
    *,
    seed: int = 0,
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
) -> Coverage:
    """Return the coverage of sets fitted on one stratified half and judged on the other, both ways round.

    The interval takes the rows for independent, which the two halves are only nearly.

    Args:
        probabilities: Shape (n, k).
        labels: Class indices of shape (n,).
        alpha: The miss rate to promise, in (0, 1).
        method: "lac" or "aps".
        seed: Decides the halves, and the chance in APS.
        answer_set: Optional booleans of shape (n, k) or (k,): options outside it are in no set.
        groups: Optional, shape (n,): rows of one group stay in one half.

    Raises:
        CalibrationError: As `fit_conformal`, for each half.
    """
    array = checked_probabilities(probabilities)
    targets = checked_labels(labels, *array.shape)
    half = stratified_folds(targets, 2, seed, groups)
    inside = np.zeros(array.shape, dtype=np.bool_)
    for number in (0, 1):
        fitted, judged = half != number, half == number
        inside[judged] = fit_conformal(array[fitted], targets[fitted], alpha, method, seed=seed).sets(array[judged])
    if answer_set is not None:
        inside &= checked_answer_set(answer_set, array)
    return _coverage(inside, targets, 1.0 - alpha)


def _scores(array: FloatArray, method: Method, randomized: bool, seed: int) -> FloatArray:
    if method == "lac":
        return 1.0 - array
    order = np.argsort(-array, axis=1, kind="stable")
    descending = np.take_along_axis(array, order, axis=1)
    part = unit_uniforms(array, seed)[:, np.newaxis] if randomized else 1.0
    scores = np.empty_like(array)
    np.put_along_axis(scores, order, np.cumsum(descending, axis=1) - descending * (1.0 - part), axis=1)
    return scores


def _threshold(scores: FloatArray, alpha: float) -> float:
    n = scores.size
    # Rounded, because (n + 1)(1 - alpha) is often a whole number that floating point puts a hair above.
    rank = math.ceil(round((n + 1) * (1.0 - alpha), 9))
    if rank > n:
        least = math.ceil(round(1.0 / alpha - 1.0, 9))
        raise TooFewRowsError(f"{n} rows cannot promise a miss rate of {alpha:g}; at least {least} are needed.")
    return float(np.partition(scores, rank - 1)[rank - 1])


def _coverage(inside: BoolArray, targets: IntArray, promised: float) -> Coverage:
    hit = inside[np.arange(targets.size), targets]
    size = inside.sum(axis=1)
    low, high = _clopper_pearson(int(hit.sum()), targets.size)
    return Coverage(
        coverage=float(hit.mean()),
        low=low,
        high=high,
        promised=promised,
        mean_size=float(size.mean()),
        empty=float(np.mean(size == 0)),
        by_class=tuple(_mean_or_none(hit[targets == k]) for k in range(inside.shape[1])),
        by_size={int(s): float(hit[size == s].mean()) for s in np.unique(size)},
        n=targets.size,
    )


def _mean_or_none(values: BoolArray) -> float | None:
    return float(values.mean()) if values.size else None


def _clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    from scipy.special import betaincinv  # scipy takes longer to import than everything else here

    tail = 0.5 * (1.0 - confidence)
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1.0 - tail))
    return low, high
