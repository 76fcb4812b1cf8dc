"""The calibrator of a study: which one, fitted on what, and never judged on a row that it took part in."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from calibration.calibrators import fit_calibrator
from calibration.proper_scores import nll_from_logits
from calibration.softmax import log_softmax
from calibration.spec import CalibrationSpec
from calibration.temperature import fit_temperature
from evaluators.calibrated import calibrate, fitted, groups_in
from evaluators.tasks import TaskColumns


def drawn(rows: int, seed: int, classes: int = 4, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits four times too sure, and too high for the first class by `bias`."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(rows, classes)) * 1.5
    labels = (scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    scores[:, 0] += bias
    return 4.0 * scores, labels


def roles(calibration: int, validation: int = 300, **given: float) -> tuple[dict, dict]:
    sets = {"calibration": drawn(calibration, 1, **given), "validation": drawn(validation, 2, **given)}
    return {role: one[0] for role, one in sets.items()}, {role: one[1] for role, one in sets.items()}


def test_with_enough_rows_it_is_fitted_on_the_calibration_split_alone() -> None:
    logits, labels = roles(200)
    done = calibrate(logits, labels, CalibrationSpec())
    assert done is not None
    assert done.calibrator == fit_temperature(logits["calibration"], labels["calibration"])
    assert np.allclose(done.validation, log_softmax(done.calibrator.apply(logits["validation"])))


def test_with_too_few_rows_validation_is_cross_fitted_with_them() -> None:
    logits, labels = roles(30)
    done = calibrate(logits, labels, CalibrationSpec())
    assert done is not None
    rows = np.concatenate([logits["calibration"], logits["validation"]])
    targets = np.concatenate([labels["calibration"], labels["validation"]])
    assert done.calibrator == fit_temperature(rows, targets)
    temperatures = np.ptp(logits["validation"], axis=1) / np.ptp(done.validation, axis=1)
    assert len(np.unique(temperatures.round(9))) == 5, "one for each fold"


def test_rows_of_one_group_are_calibrated_by_the_same_others() -> None:
    logits, labels = roles(60)
    groups = {role: np.arange(len(one)) % 20 for role, one in labels.items()}
    done = calibrate(logits, labels, CalibrationSpec(), groups=groups)
    apart = calibrate(logits, labels, CalibrationSpec())
    assert done is not None
    assert apart is not None
    for one, together in ((done, True), (apart, False)):
        temperatures = (np.ptp(logits["validation"], axis=1) / np.ptp(one.validation, axis=1)).round(9)
        of_groups = [len(set(temperatures[groups["validation"] == number])) for number in range(20)]
        assert (max(of_groups) == 1) == together


def test_groups_are_kept_with_the_predictions() -> None:
    arrays = {
        "validation_groups": np.array([1]),
        "calibration_groups": np.array([2]),
        "validation_labels": np.array([0]),
    }
    assert groups_in(arrays) == {"validation": [1], "calibration": [2]}
    assert groups_in({"validation_labels": np.array([0])}) == {}


def test_each_task_has_its_own_rows_groups() -> None:
    logits, labels = roles(60, 60)
    tasks = (TaskColumns("one", 0, 2), TaskColumns("two", 2, 4))
    groups = {role: np.arange(len(one)) % 12 for role, one in labels.items()}
    masked = {}
    for role, array in logits.items():
        masked[role] = np.where((labels[role] >= 2)[:, None] == (np.arange(4) >= 2), array, -np.inf)
    done = calibrate(masked, labels, CalibrationSpec(), tasks, groups)
    assert done is not None
    for task in tasks:
        own = {role: task.own(logits[role], labels[role]) for role in labels}
        targets = {role: task.own_labels(labels[role]) for role in labels}
        theirs = {role: groups[role][task.rows(labels[role])] for role in labels}
        alone = calibrate(own, targets, CalibrationSpec(), groups=theirs)
        assert alone is not None
        assert np.array_equal(task.own(done.validation, labels["validation"]), alone.validation)


def test_pooling_pays_where_the_split_is_scarce() -> None:
    """Mean over draws of the NLL on fresh rows, against the temperature of thirty rows."""
    pooled, alone = [], []
    test_logits, test_labels = drawn(4000, 99)
    for seed in range(30):
        sets = {"calibration": drawn(30, 100 + seed), "validation": drawn(150, 200 + seed)}
        logits, labels = ({role: one[part] for role, one in sets.items()} for part in (0, 1))
        for found, scarce in ((pooled, 100), (alone, 0)):
            done = calibrate(logits, labels, CalibrationSpec(scarce=scarce))
            assert done is not None
            found.append(nll_from_logits(done.calibrator.apply(test_logits), test_labels))
    assert np.mean(pooled) < np.mean(alone)


def test_auto_takes_what_pays_and_what_the_rows_can_carry() -> None:
    skewed, labels = roles(600, bias=1.0)
    done = calibrate(skewed, labels, CalibrationSpec(method="auto"))
    assert done is not None
    assert done.calibrator.kind in ("bias_corrected", "vector")
    few, few_labels = roles(60, validation=30, bias=1.0)
    scarce = calibrate(few, few_labels, CalibrationSpec(method="auto", folds=2))
    assert scarce is not None
    assert scarce.calibrator.kind == "temperature"


@pytest.mark.parametrize("kind", ["temperature", "bias_corrected", "vector", "histogram", "isotonic"])
def test_a_study_may_fix_the_kind(kind: str) -> None:
    logits, labels = drawn(300, 3)
    spec = CalibrationSpec.model_validate({"method": kind})
    assert fitted(logits, labels, spec) == fit_calibrator(kind, logits, labels)  # type: ignore[arg-type]


def test_none_is_none() -> None:
    logits, labels = roles(200)
    assert calibrate(logits, labels, CalibrationSpec(method="none")) is None
    with pytest.raises(ValueError, match="wants no calibrator"):
        fitted(logits["validation"], labels["validation"], CalibrationSpec(method="none"))
    with pytest.raises(ValidationError):
        CalibrationSpec.model_validate({"method": "plat"})
