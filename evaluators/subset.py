"""Some rows of a split: which they are, and how far what they say may be from what all rows would say.

Rungs look at the same rows for every candidate, so that candidates are compared on the same examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.ece import debiased_squared_error, ece
from calibration.proper_scores import squared_errors, surprises
from calibration.softmax import log_softmax
from calibration.spec import CalibrationSpec
from evaluators.measurement import macro_f1
from evaluators.tasks import TaskColumns, averaged

_SEED = 0
_DRAWS = 100


def some_rows(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the positions of `count` rows, each class with its share of them; all rows where there are no more.

    The same labels always give the same rows, in rising order.
    """
    if count >= len(labels):
        return np.arange(len(labels))
    drawn = np.random.default_rng(_SEED).permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    evenly = ((np.arange(count) + 0.5) * len(labels) / count).astype(np.int64)
    return np.sort(by_class[evenly])


def standard_errors(
    logits: NDArray[np.float64], labels: NDArray[np.int64], spec: CalibrationSpec, population: int
) -> dict[str, float]:
    """Return the standard error of each metric of `quality`, as an estimate of its value on all rows.

    Of a mean it is that of a sample without replacement: none where the sample is everything. The other metrics are
    drawn again with replacement, 100 times. The share of right answers is taken two right and two wrong further in
    (Agresti & Coull 1998), for a sample without a mistake is no proof that there is none.

    Args:
        logits: Of the sample, shape [rows, classes].
        labels: Class indices, shape [rows].
        spec: Bins and folds.
        population: How many rows there are.
    """
    rows = len(labels)
    logs = log_softmax(logits)
    scaled = cross_fitted_log_probabilities(logits, labels, folds=spec.folds)
    share = (np.sum(logits.argmax(axis=1) == labels) + 2) / (rows + 4)
    spreads = {"accuracy": float(np.sqrt(share * (1 - share)))}
    for name, losses in {
        "nll": surprises(logs, labels),
        "calibrated_nll": surprises(scaled, labels),
        "brier": squared_errors(logs, labels),
    }.items():
        spreads[name] = float(np.std(losses, ddof=1))
    found = {name: spread / np.sqrt(rows) for name, spread in spreads.items()}
    found |= _drawn_again(np.exp(logs), labels, spec)
    finite = np.sqrt(max(population - rows, 0) / max(population - 1, 1))
    return {name: float(error * finite) for name, error in found.items()}


def errors_by_task(
    tasks: Sequence[TaskColumns],
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    spec: CalibrationSpec,
    everything: NDArray[np.int64],
) -> dict[str, float]:
    """Return what `standard_errors` does; where there are several tasks, of each and of the mean over them.

    Args:
        tasks: The tasks; none where there is one only.
        logits: Of the sample, shape [rows, classes].
        labels: Class indices, shape [rows].
        spec: Bins and folds.
        everything: Labels of all rows.
    """
    if not tasks:
        return standard_errors(logits, labels, spec, len(everything))
    each = {
        one.name: standard_errors(
            one.own(logits, labels), one.own_labels(labels), spec, int(one.rows(everything).sum())
        )
        for one in tasks
    }
    found = averaged(each)
    for name in next(iter(each.values())):
        found[name] = math.hypot(*(errors[name] for errors in each.values())) / len(each)
    return found


def _drawn_again(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], spec: CalibrationSpec
) -> dict[str, float]:
    """Return the bootstrap standard errors of the metrics that are no means over rows."""
    statistics: dict[str, Callable[[NDArray[np.float64], NDArray[np.int64]], float]] = {
        "macro_f1": lambda one, truth: macro_f1(one.argmax(axis=1), truth),
        "ece": lambda one, truth: ece(one, truth, bins=spec.bins),
        "debiased_squared_error": lambda one, truth: debiased_squared_error(one, truth, bins=spec.bins),
    }
    draws = np.random.default_rng(_SEED).integers(0, len(labels), (_DRAWS, len(labels)))
    return {
        name: float(np.std([statistic(probabilities[rows], labels[rows]) for rows in draws], ddof=1))
        for name, statistic in statistics.items()
    }
