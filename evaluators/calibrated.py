"""What a candidate says, calibrated, so that no row is judged by a calibrator that it took part in.

With enough rows in the calibration split the calibrator is fitted there and judged on validation. With fewer, the rows
of validation are fitted on as well: each is judged by the fit on the other folds, and what is used from then on is
fitted on all rows of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.calibrators import Calibrator, fit_calibrator, held_out_log_probabilities
from calibration.choice import choose_calibrator
from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.fitted_rows import FittedRows
from calibration.spec import CalibrationSpec
from evaluators.task_calibrator import TaskCalibrator
from evaluators.tasks import TaskColumns, joined

Logits = Mapping[str, NDArray[np.float64]]
Labels = Mapping[str, NDArray[np.int64]]
Groups = Mapping[str, NDArray[np.int64]]
"""Numbers of what rows stay together with, by role; empty where they do not."""

JUDGED = ("validation", "calibration")
"""The roles that a calibrator is fitted or judged on, and whose logits are kept with a candidate."""


def groups_in(arrays: Mapping[str, NDArray[Any]]) -> Groups:
    """Return the groups among what a candidate's predictions were saved with."""
    return {role: arrays[f"{role}_groups"] for role in JUDGED if f"{role}_groups" in arrays}


@dataclass(frozen=True)
class Calibrated:
    """A calibrator, and the rows of validation as others like it see them.

    Attributes:
        calibrator: To be used from here on.
        validation: Log-probabilities of shape [examples, classes], each by a calibrator that was not fitted on it.
    """

    calibrator: Calibrator
    validation: NDArray[np.float64]


def calibrate(
    logits: Logits,
    labels: Labels,
    spec: CalibrationSpec,
    tasks: Sequence[TaskColumns] = (),
    groups: Groups | None = None,
) -> Calibrated | None:
    """Fit the calibrator that a study asks for; where it has several tasks, one for each of them.

    Args:
        logits: Of the roles `validation` and `calibration`, shape [examples, classes].
        labels: Class indices of the same roles.
        spec: Which calibrator, how many folds, and how few rows are too few.
        tasks: Whose the classes are, where there are several tasks.
        groups: Rows of one group stay in one fold.

    Returns:
        The calibrator; None where the study wants none.

    Raises:
        CalibrationError: Rows that no calibrator can be fitted on, such as those of one class only.
    """
    if spec.method == "none":
        return None
    groups = groups or {}
    if tasks:
        return _calibrate_each(logits, labels, spec, tuple(tasks), groups)
    if not _is_scarce(labels, spec):
        calibrator = fitted(logits["calibration"], labels["calibration"], spec, groups.get("calibration"))
        return Calibrated(calibrator, held_out_log_probabilities(calibrator, logits["validation"]))
    rows = np.concatenate([logits["calibration"], logits["validation"]])
    targets = np.concatenate([labels["calibration"], labels["validation"]])
    folds = max(3, spec.folds) if spec.method == "auto" else spec.folds  # "auto" cross-fits within the other folds
    together = np.concatenate([groups["calibration"], groups["validation"]]) if groups else None
    crossed = cross_fitted_log_probabilities(rows, targets, kind=spec.method, folds=folds, groups=together)
    return Calibrated(fitted(rows, targets, spec, together), crossed[len(labels["calibration"]) :])


def _calibrate_each(
    logits: Logits, labels: Labels, spec: CalibrationSpec, tasks: tuple[TaskColumns, ...], groups: Groups
) -> Calibrated:
    each, fitted_on = [], [logits["calibration"]]
    for one in tasks:
        own = {role: one.own(logits[role], labels[role]) for role in JUDGED}
        together = {role: groups[role][one.rows(labels[role])] for role in groups}
        own_labels = {role: one.own_labels(labels[role]) for role in own}
        done = calibrate(own, own_labels, spec, groups=together)
        assert done is not None  # the study wants one
        each.append(done)
        if _is_scarce(own_labels, spec):
            fitted_on.append(logits["validation"][one.rows(labels["validation"])])
    rows = FittedRows.of(np.concatenate(fitted_on))
    validation = joined(tasks, labels["validation"], [one.validation for one in each])
    return Calibrated(TaskCalibrator(tasks, tuple(one.calibrator for one in each), rows), validation)


def _is_scarce(labels: Labels, spec: CalibrationSpec) -> bool:
    """Whether the rows of calibration are so few that those of validation are fitted on as well."""
    return len(labels["calibration"]) < spec.scarce


def fitted(
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    spec: CalibrationSpec,
    groups: NDArray[np.int64] | None = None,
) -> Calibrator:
    """Fit a study's calibrator on some rows; `auto` is the kind with the least cross-fitted NLL that they can carry.

    Rows of one group stay in one fold.

    Raises:
        CalibrationError: As `calibrate`.
        ValueError: The study wants none.
    """
    if spec.method == "none":
        raise ValueError("the study wants no calibrator")
    if spec.method == "auto":
        return choose_calibrator(logits, labels, folds=spec.folds, groups=groups).calibrator
    return fit_calibrator(spec.method, logits, labels)
