"""Which calibrator: the one with the least cross-fitted NLL, among those that the rows can carry.

The policy is about rows for each fitted number. Measured with four classes and T = 4 (NLL; the truth has 0.812):
temperature 0.829 on 30 rows, 0.817 on 120; unridged vector 1.118 on 30, 0.851 on 120, 0.815 on 1,000; isotonic
2.12 on 30, 0.858 on 1,000. Hence temperature alone below 100 rows, linear kinds from 50 rows a number (vector: 100 k),
curves from 10,000 rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.calibrators import DEFAULT_OPTIONS, Calibrator, FitOptions, Kind, fit_checked
from calibration.errors import ConvergenceError
from calibration.fitted_rows import FittedRows, Ids
from calibration.folds import check_rows_to_fit, stratified_folds
from calibration.rows import (
    FloatArray,
    IntArray,
    check_several_classes,
    checked_choice,
    checked_weights,
)
from calibration.softmax import log_softmax
from calibration.temperature import labelled_logits

AnyKind: TypeAlias = Kind | Literal["auto"]
"""A kind of calibrator, or "auto" to have it chosen."""

ROWS_PER_NUMBER = 50
LEAST_ROWS_LINEAR = 100
LEAST_ROWS_CURVES = 10_000


@dataclass(frozen=True)
class Choice:
    """A calibrator that was chosen, and what it was chosen from.

    Attributes:
        calibrator: Fitted on all the rows.
        nll: Cross-fitted NLL (nats) of each kind that was tried, simplest first. The least of them is slightly
            optimistic as an estimate, being the least of several; `cross_fitted_probabilities(kind="auto")` is not.
        left_out: Why the other kinds were not tried.
    """

    calibrator: Calibrator
    nll: Mapping[Kind, float]
    left_out: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The kind that was chosen."""
        return self.calibrator.kind

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        chosen = self.calibrator.to_json()
        return {"calibrator": chosen, "nll": dict(self.nll), "left_out": dict(self.left_out)}


def choose_calibrator(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    kind: AnyKind = "auto",
    folds: int = 5,
    seed: int = 0,
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    ids: Ids | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
) -> Choice:
    """Choose a kind by cross-fitted NLL under the sample-size policy, and fit it to all rows.

    Args:
        logits: Raw logits of shape (n, k), k >= 2; ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        weights: Optional, shape (n,), not negative; only their proportions matter.
        kind: "auto", or the kind that the user fixed, whatever the policy says of it.
        folds: How many, 2 to n.
        seed: Decides the folds.
        answer_set: Optional booleans of shape (n, k) or (k,).
        groups: Optional, shape (n,): rows of one group stay in one fold.
        ids: Optional ids of the rows, kept as hashes so that later scores refuse these rows exactly.
        options: What the richer calibrators may be told.

    Raises:
        CalibrationError: As `fit_calibrator`, or more folds than rows or groups.
    """
    checked_choice(kind, "kind", ("auto", *get_args(Kind)))
    array, targets = labelled_logits(logits, labels, answer_set)
    share = checked_weights(weights, targets.size)
    rows = FittedRows.of(array, ids)
    fold = stratified_folds(targets, folds, seed, groups)
    counted = share > 0.0
    check_several_classes(targets[counted])
    array, targets, share, fold = array[counted], targets[counted], share[counted], fold[counted]
    nll, left_out = cross_fitted_nlls(array, targets, share, fold, kind, options)
    best = min(nll, key=lambda name: nll[name])
    return Choice(fit_checked(best, array, targets, share, options, rows), nll, left_out)


def allowed_kinds(array: FloatArray) -> tuple[list[Kind], dict[str, str]]:
    """Return the kinds that n rows of k classes can carry, simplest first, and why not the others."""
    n, k = array.shape
    tried: list[Kind] = []
    left_out = {}
    for kind in get_args(Kind):
        reason = _reason_against(kind, n, k, bool(np.all(np.isfinite(array))))
        if reason:
            left_out[kind] = reason
        else:
            tried.append(kind)
    return tried, left_out


def cross_fitted_nlls(
    array: FloatArray, targets: IntArray, share: FloatArray, fold: IntArray, kind: AnyKind, options: FitOptions
) -> tuple[dict[Kind, float], dict[str, str]]:
    """Return the cross-fitted NLL of each kind to be tried, and why the others are not."""
    kinds, left_out = allowed_kinds(array) if kind == "auto" else ([kind], {})
    nll: dict[Kind, float] = {}
    for name in kinds:
        try:
            logs = out_of_fold(name, array, targets, share, fold, options)
        except ConvergenceError as error:
            if kind != "auto":
                raise
            left_out[name] = str(error)
        else:
            nll[name] = -float(share @ logs[np.arange(targets.size), targets])
    return nll, left_out


def out_of_fold(
    kind: Kind, array: FloatArray, targets: IntArray, share: FloatArray, fold: IntArray, options: FitOptions
) -> FloatArray:
    """Return log-probabilities (n, k) of each fold by the calibrator of the others, of checked arrays."""
    out = np.empty_like(array)
    for number in np.unique(fold):
        held_out, rest = fold == number, (fold != number) & (share > 0.0)
        check_rows_to_fit(rest)
        part = share[rest] / share[rest].sum()
        calibrator = fit_checked(kind, array[rest], targets[rest], part, options, FittedRows())
        out[held_out] = log_softmax(calibrator.apply(array[held_out]))
    return out


def _reason_against(kind: Kind, n: int, k: int, complete: bool) -> str | None:
    if kind == "temperature":
        return None
    if kind == "platt" and (k != 2 or not complete):
        return "for two classes, both in every answer set"
    if kind in ("histogram", "isotonic"):
        return None if n >= LEAST_ROWS_CURVES else f"{n} rows; from {LEAST_ROWS_CURVES:,}"
    numbers = {"bias_corrected": k + 1, "platt": 2, "vector": 2 * k}[kind]
    least = max(LEAST_ROWS_LINEAR, ROWS_PER_NUMBER * numbers)
    return None if n >= least else f"{n} rows; from {least:,} for {numbers} numbers"
