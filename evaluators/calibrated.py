"""What a candidate says, calibrated, so that no row is judged by a calibrator that it took part in.

With enough rows in the calibration split the calibrator is fitted there and judged on validation. With fewer, the rows
of validation are fitted on as well: each is judged by the fit on the other folds, and what is used from then on is
fitted on all rows of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.calibrators import Calibrator, fit_calibrator, held_out_log_probabilities
from calibration.choice import choose_calibrator
from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.spec import CalibrationSpec

Logits = Mapping[str, NDArray[np.float64]]
Labels = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Calibrated:
    """A calibrator, and the rows of validation as others like it see them.

    Attributes:
        calibrator: To be used from here on.
        validation: Log-probabilities of shape [examples, classes], each by a calibrator that was not fitted on it.
    """

    calibrator: Calibrator
    validation: NDArray[np.float64]


def calibrate(logits: Logits, labels: Labels, spec: CalibrationSpec) -> Calibrated | None:
    """Fit the calibrator that a study asks for.

    Args:
        logits: Of the roles `validation` and `calibration`, shape [examples, classes].
        labels: Class indices of the same roles.
        spec: Which calibrator, how many folds, and how few rows are too few.

    Returns:
        The calibrator; None where the study wants none.

    Raises:
        CalibrationError: Rows that no calibrator can be fitted on, such as those of one class only.
    """
    if spec.method == "none":
        return None
    if len(labels["calibration"]) >= spec.scarce:
        calibrator = fitted(logits["calibration"], labels["calibration"], spec)
        return Calibrated(calibrator, held_out_log_probabilities(calibrator, logits["validation"]))
    rows = np.concatenate([logits["calibration"], logits["validation"]])
    targets = np.concatenate([labels["calibration"], labels["validation"]])
    folds = max(3, spec.folds) if spec.method == "auto" else spec.folds  # "auto" cross-fits within the other folds
    crossed = cross_fitted_log_probabilities(rows, targets, kind=spec.method, folds=folds)
    return Calibrated(fitted(rows, targets, spec), crossed[len(labels["calibration"]) :])


def fitted(logits: NDArray[np.float64], labels: NDArray[np.int64], spec: CalibrationSpec) -> Calibrator:
    """Fit a study's calibrator on some rows; `auto` is the kind with the least cross-fitted NLL that they can carry.

    Raises:
        CalibrationError: As `calibrate`.
        ValueError: The study wants none.
    """
    if spec.method == "none":
        raise ValueError("the study wants no calibrator")
    if spec.method == "auto":
        return choose_calibrator(logits, labels, folds=spec.folds).calibrator
    return fit_calibrator(spec.method, logits, labels)
