"""Metrics of several tasks, and the calibrator of each behind the face of one."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest

from calibration.calibrators import held_out_log_probabilities
from calibration.errors import DocumentError, SeenRowsError
from calibration.spec import CalibrationSpec
from calibration.temperature import TemperatureFit
from evaluators.calibrated import calibrate
from evaluators.score import METRICS, in_order, metric
from evaluators.subset import errors_by_task, standard_errors
from evaluators.task_calibrator import TaskCalibrator, read_calibrator
from evaluators.tasks import TaskColumns, averaged, by_task, joined

TASKS = (TaskColumns("a", 0, 2), TaskColumns("b", 2, 5))
SPEC = CalibrationSpec(scarce=0)


def rows(seed: int, count: int = 200, sharpness: tuple[float, float] = (1.0, 4.0)) -> tuple[np.ndarray, np.ndarray]:
    """Two tasks' rows, the second's logits four times too large."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([random.integers(0, 2, count), random.integers(2, 5, count)])
    each = []
    for task, factor in zip(TASKS, sharpness, strict=True):
        own = random.normal(size=(count, task.stop - task.start))
        own[np.arange(count), task.own_labels(labels)] += 1.0
        each.append(factor * own)
    return joined(TASKS, labels, each), labels


def test_each_task_is_measured_by_itself_and_their_mean_is_unweighted() -> None:
    logits, labels = rows(0)
    kept = np.concatenate([np.arange(50), np.arange(200, 400)])
    values = by_task(
        TASKS, lambda own, truth: {"rows": float(len(truth)), "width": own.shape[1]}, labels[kept], logits[kept]
    )
    assert values == {"rows": 125.0, "rows/a": 50.0, "rows/b": 200.0, "width": 2.5, "width/a": 2, "width/b": 3}


def test_what_stays_together_is_told_of_each_task() -> None:
    logits, labels = rows(0)

    def measure(own: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> dict[str, float]:
        return {"least": float(groups.min()), "rows": float(len(groups))}

    numbers = np.arange(400)
    values = by_task(TASKS, measure, labels, logits, groups=numbers)
    assert (values["least/a"], values["least/b"], values["rows/b"]) == (0.0, 200.0, 200.0)
    assert by_task((), measure, labels, logits, groups=numbers) == {"least": 0.0, "rows": 400.0}


def test_one_task_is_measured_as_it_is() -> None:
    logits, labels = rows(0)
    assert by_task((), lambda own, truth: {"all": float(own.shape[1])}, labels, logits) == {"all": 5.0}
    assert averaged({"a": {"x": 1.0}, "b": {"x": 3.0}}) == {"x": 2.0, "x/a": 1.0, "x/b": 3.0}


def test_standard_errors_of_a_mean_over_tasks_are_those_of_independent_samples() -> None:
    logits, labels = rows(1, 60)
    errors = errors_by_task(TASKS, logits, labels, SPEC, np.tile(labels, 3))
    alone = [standard_errors(task.own(logits, labels), task.own_labels(labels), SPEC, 180)["nll"] for task in TASKS]
    assert [errors["nll/a"], errors["nll/b"]] == alone
    assert errors["nll"] == pytest.approx(np.sqrt(alone[0] ** 2 + alone[1] ** 2) / 2)


@pytest.mark.parametrize(("scarce", "refused"), [(1000, True), (0, False)])
def test_what_was_fitted_on_is_not_judged_where_a_task_has_few_rows(scarce: int, refused: bool) -> None:
    """With few rows of calibration those of validation are fitted on as well."""
    parts = {role: rows(seed) for seed, role in enumerate(("validation", "calibration"))}
    logits, labels = ({role: one[at] for role, one in parts.items()} for at in (0, 1))
    done = calibrate(logits, labels, CalibrationSpec(scarce=scarce), TASKS)
    assert done is not None
    with pytest.raises(SeenRowsError) if refused else nullcontext():
        held_out_log_probabilities(done.calibrator, logits["validation"])
    with pytest.raises(SeenRowsError):
        held_out_log_probabilities(done.calibrator, logits["calibration"])


def test_each_task_has_its_own_temperature() -> None:
    parts = {role: rows(seed) for seed, role in enumerate(("validation", "calibration"))}
    logits, labels = ({role: pair[index] for role, pair in parts.items()} for index in (0, 1))
    done = calibrate(logits, labels, SPEC, TASKS)
    assert done is not None
    fit = done.calibrator
    assert isinstance(fit, TaskCalibrator)
    one, other = fit.of("a"), fit.of("b")
    assert isinstance(one, TemperatureFit)
    assert isinstance(other, TemperatureFit)
    assert other.temperature > 2 * one.temperature
    after = held_out_log_probabilities(fit, logits["validation"])
    assert np.array_equal(after, done.validation)
    assert np.exp(after).sum(axis=1) == pytest.approx(1.0)
    assert (np.isneginf(after) == np.isneginf(logits["validation"])).all()
    with pytest.raises(SeenRowsError):
        held_out_log_probabilities(fit, logits["calibration"])
    again = read_calibrator(json.loads(json.dumps(fit.to_json())))
    assert again == fit
    with pytest.raises(DocumentError, match="lacks 'fitted_on'"):
        read_calibrator({"kind": "tasks", "schema_version": 1, "tasks": []})


def test_a_metric_of_one_task_is_known_by_its_name_and_listed_behind_the_means() -> None:
    one = metric("ece/reviews")
    assert (one.name, one.direction, one.short) == ("ece/reviews", "minimize", "ECE reviews")
    assert "ece/reviews" not in METRICS
    for odd in ("latency_ms/reviews", "ece/", "eec/reviews"):
        with pytest.raises(ValueError, match="there is no metric"):
            metric(odd)
    assert in_order(["ece/b", "odd", "ece", "accuracy/b", "accuracy"]) == ["accuracy", "ece", "accuracy/b", "ece/b"]
