"""Cross-fitting: every row calibrated by a fit on other rows, when there are too few to set some aside."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt

from calibration.calibrators import DEFAULT_OPTIONS, FitOptions, Kind, fit_checked
from calibration.choice import AnyKind, cross_fitted_nlls, out_of_fold
from calibration.errors import OptionError
from calibration.fitted_rows import FittedRows
from calibration.folds import stratified_folds
from calibration.rows import FloatArray, IntArray, check_several_classes, checked_choice, checked_weights
from calibration.softmax import log_softmax
from calibration.temperature import labelled_logits


def cross_fitted_log_probabilities(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    kind: AnyKind = "temperature",
    folds: int = 5,
    seed: int = 0,
    weights: npt.ArrayLike | None = None,
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
) -> FloatArray:
    """Return calibrated log-probabilities of shape (n, k), each fold's by a calibrator fitted on the other folds.

    They may be scored against the labels: no row took part in its own calibration. With kind "auto" that holds for
    the choice too: it is made anew inside each set of other folds.

    Args:
        logits: Raw logits of shape (n, k), k >= 2; ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        kind: Which calibrator, or "auto".
        folds: How many, 2 to n.
        seed: Decides the folds, which are stratified; see `calibration.folds`.
        weights: Optional, shape (n,); rows of weight zero are calibrated, and fitted on by none.
        answer_set: Optional booleans of shape (n, k) or (k,).
        groups: Optional, shape (n,): rows of one group stay in one fold.
        options: What the richer calibrators may be told.

    Raises:
        CalibrationError: As `fit_calibrator`, or more folds than rows or groups.
    """
    checked_choice(kind, "kind", ("auto", *get_args(Kind)))
    array, targets = labelled_logits(logits, labels, answer_set)
    share = checked_weights(weights, targets.size)
    check_several_classes(targets[share > 0.0])
    fold = stratified_folds(targets, folds, seed, groups)
    if kind == "auto":
        return _chosen_out_of_fold(array, targets, share, fold, options)
    return out_of_fold(kind, array, targets, share, fold, options)


def cross_fitted_probabilities(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    kind: AnyKind = "temperature",
    folds: int = 5,
    seed: int = 0,
    weights: npt.ArrayLike | None = None,
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
) -> FloatArray:
    """Return the probabilities of `cross_fitted_log_probabilities`; exactly 0 outside the answer set."""
    return np.exp(
        cross_fitted_log_probabilities(
            logits,
            labels,
            kind=kind,
            folds=folds,
            seed=seed,
            weights=weights,
            answer_set=answer_set,
            groups=groups,
            options=options,
        )
    )


def _chosen_out_of_fold(
    array: FloatArray, targets: IntArray, share: FloatArray, fold: IntArray, options: FitOptions
) -> FloatArray:
    """Return log-probabilities of each fold by the kind that cross-fitting within the other folds prefers."""
    if fold.max() < 2:
        raise OptionError("kind 'auto' needs at least 3 folds: the choice is made by cross-fitting within the others.")
    out = np.empty_like(array)
    for number in range(fold.max() + 1):
        rest = (fold != number) & (share > 0.0)
        part = share[rest] / share[rest].sum()
        nll, _ = cross_fitted_nlls(array[rest], targets[rest], part, fold[rest], "auto", options)
        best = min(nll, key=lambda name: nll[name])
        calibrator = fit_checked(best, array[rest], targets[rest], part, options, FittedRows())
        out[fold == number] = log_softmax(calibrator.apply(array[fold == number]))
    return out
