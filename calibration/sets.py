"""Conformal sets of a calibrated classifier: fitted beside its calibrator, kept beside it, read with it.

The sets are fitted on the calibrator's own rows, each calibrated by a fit on others, so that the promise is not
flattered by what the calibrator learned of them. In use, probabilities come from the calibrator of all rows, which is
better than any of those by a little: the sets cover what they promise up to that little, and rather more than less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.choice import AnyKind
from calibration.conformal import ConformalFit, Method, fit_conformal
from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.documents import Fields, headed
from calibration.errors import DocumentError, OneClassError, TooFewRowsError
from calibration.fitted_rows import Ids
from calibration.rows import FloatArray
from calibration.softmax import log_softmax
from calibration.temperature import labelled_logits

KIND = "sets"
Fits: TypeAlias = Mapping[Method, ConformalFit | None]
"""A fit for each method; None where the rows are too few for the promise."""


def fit_sets(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    alpha: float = 0.1,
    *,
    kind: AnyKind | Literal["none"] = "temperature",
    folds: int = 5,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
    ids: Ids | None = None,
) -> Fits:
    """Fit the sets of each method to labelled logits.

    Args:
        logits: Raw logits of shape (n, k).
        labels: Class indices of shape (n,).
        alpha: The miss rate to promise, in (0, 1).
        kind: The calibrator that will be used; "none" for softmax alone.
        folds: Of the cross-fitting; "auto" takes at least three.
        seed: Decides the folds, and the chance in APS.
        groups: Optional, shape (n,): rows of one group stay in one fold.
        ids: Optional ids of the rows, kept as hashes so that `evaluate` refuses these rows exactly.

    Raises:
        CalibrationError: Arrays or options that are not fit to use; too few rows are None instead.
    """
    array, targets = labelled_logits(logits, labels)
    try:
        logs = _calibrated(array, targets, kind, max(3, folds) if kind == "auto" else folds, seed, groups)
    except (TooFewRowsError, OneClassError):
        return dict.fromkeys(get_args(Method))
    return {method: _fitted(np.exp(logs), targets, alpha, method, seed, ids) for method in get_args(Method)}


def sets_to_json(fits: Fits) -> dict[str, Any]:
    """Return a JSON-able document with a schema version, which `sets_from_json` reads."""
    return headed(KIND, {name: fits[name] and _document(fits[name]) for name in get_args(Method)})


def sets_from_json(document: dict[str, Any]) -> Fits:
    """Return what `sets_to_json` wrote.

    Raises:
        DocumentError: Another version or kind, unknown or missing keys, or values out of range.
    """
    fields = Fields.headed(document, (KIND,), set(get_args(Method)))
    fits = {name: _read(fields, document, name) for name in get_args(Method)}
    for name, fit in fits.items():
        if fit is not None and fit.method != name:
            raise DocumentError(f"{KIND}: under {name!r} there is a fit of method {fit.method!r}; write it again.")
    return fits


def _read(fields: Fields, document: dict[str, Any], name: Method) -> ConformalFit | None:
    return None if document[name] is None else ConformalFit.from_json(fields.document(name))


def _document(fit: ConformalFit | None) -> dict[str, Any] | None:
    return None if fit is None else fit.to_json()


def _calibrated(
    array: FloatArray,
    targets: npt.NDArray[np.int64],
    kind: AnyKind | Literal["none"],
    folds: int,
    seed: int,
    groups: npt.ArrayLike | None,
) -> FloatArray:
    if kind == "none":
        return log_softmax(array)
    return cross_fitted_log_probabilities(array, targets, kind=kind, folds=folds, seed=seed, groups=groups)


def _fitted(
    p: FloatArray, targets: npt.NDArray[np.int64], alpha: float, method: Method, seed: int, ids: Ids | None
) -> ConformalFit | None:
    try:
        return fit_conformal(p, targets, alpha, method, seed=seed, ids=ids)
    except TooFewRowsError:
        return None
