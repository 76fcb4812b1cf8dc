"""Numbers about probabilities: how good they are, how to mend them, and how sure one may be of either.

numpy and scipy in, floats out. Nothing here knows what a model is: logits of shape (n, k) and labels of shape (n,)
come in from anywhere. Scores share their names with the modules that define them (`calibration.ece.ece`,
`calibration.report.report`), so those are reached through the module; everything else is here as well.

    scores       ece, proper_scores, selective, floor, bootstrap, subgroups
    calibrators  temperature, calibrators, choice, cross_fitting, subgroup_temperatures
    sets         conformal, sets
    results      report, scorecard, figures
    errors       errors
"""

from calibration import bootstrap, conformal, ece, errors, figures, floor, proper_scores, report, selective, temperature
from calibration.bootstrap import Difference, Interval, interval, nested_difference, paired_difference
from calibration.calibrators import (
    Calibrator,
    FitOptions,
    calibrator_from_json,
    fit_calibrator,
    held_out_log_probabilities,
    held_out_probabilities,
)
from calibration.choice import Choice, choose_calibrator
from calibration.conformal import ConformalFit, Coverage, crossed_coverage, fit_conformal
from calibration.cross_fitting import cross_fitted_log_probabilities, cross_fitted_probabilities
from calibration.errors import CalibrationError
from calibration.fitted_rows import FittedRows
from calibration.floor import EceFloor, ece_floor
from calibration.proper_scores import Decomposition, brier, brier_binary, decomposition, nll, nll_from_logits
from calibration.report import Report
from calibration.scorecard import Scorecard, Settings
from calibration.selective import aurc, excess_aurc, risk_coverage, selective_accuracy
from calibration.sets import fit_sets, sets_from_json, sets_to_json
from calibration.subgroup_temperatures import SubgroupTemperatures, fit_subgroup_temperatures
from calibration.subgroups import Subgroups, SubgroupScore, subgroup_scores
from calibration.temperature import TemperatureFit, cross_fitted_nll, fit_temperature

__all__ = [
    "CalibrationError",
    "Calibrator",
    "Choice",
    "ConformalFit",
    "Coverage",
    "Decomposition",
    "Difference",
    "EceFloor",
    "FitOptions",
    "FittedRows",
    "Interval",
    "Report",
    "Scorecard",
    "Settings",
    "SubgroupScore",
    "SubgroupTemperatures",
    "Subgroups",
    "TemperatureFit",
    "aurc",
    "bootstrap",
    "brier",
    "brier_binary",
    "calibrator_from_json",
    "choose_calibrator",
    "conformal",
    "cross_fitted_log_probabilities",
    "cross_fitted_nll",
    "cross_fitted_probabilities",
    "crossed_coverage",
    "decomposition",
    "ece",
    "ece_floor",
    "errors",
    "excess_aurc",
    "figures",
    "fit_calibrator",
    "fit_conformal",
    "fit_sets",
    "fit_subgroup_temperatures",
    "fit_temperature",
    "floor",
    "held_out_log_probabilities",
    "held_out_probabilities",
    "interval",
    "nested_difference",
    "nll",
    "nll_from_logits",
    "paired_difference",
    "proper_scores",
    "report",
    "risk_coverage",
    "selective",
    "selective_accuracy",
    "sets_from_json",
    "sets_to_json",
    "subgroup_scores",
    "temperature",
]
