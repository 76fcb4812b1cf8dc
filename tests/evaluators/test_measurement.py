"""Quality from logits: which metrics there are, and that they are those of the package that defines them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.ece import debiased_squared_error, ece
from calibration.softmax import log_softmax, softmax
from calibration.spec import CalibrationSpec
from calibration.temperature import cross_fitted_nll, fit_temperature
from evaluators.measurement import calibrated_quality, quality, subgroup_quality
from evaluators.score import METRICS

SPEC = CalibrationSpec(floor_draws=200)


def made_up(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = 3.0 * random.normal(size=(rows, 3))
    return logits, (logits + random.gumbel(scale=3.0, size=logits.shape)).argmax(axis=1)


def test_what_every_rung_measures() -> None:
    logits, labels = made_up()
    values = quality(logits, labels, SPEC)
    assert values.keys() == {
        "accuracy", "macro_f1", "nll", "calibrated_nll", "ece", "debiased_squared_error", "brier",
    }  # fmt: skip
    assert values.keys() <= METRICS.keys()
    assert values["debiased_squared_error"] == debiased_squared_error(softmax(logits), labels, 15)
    assert values["ece"] == ece(softmax(logits), labels, 15)
    assert values["macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(axis=1), average="macro"))


def test_what_the_end_measures_beside_it() -> None:
    logits, labels = made_up()
    fit = fit_temperature(*made_up(seed=1))
    values = calibrated_quality(logits, log_softmax(fit.apply(logits)), labels, SPEC)
    assert values.keys() == {
        "ece_floor", "ece_p_value", "calibrated_ece", "calibrated_ece_floor", "calibrated_ece_p_value",
    }  # fmt: skip
    assert values.keys() <= METRICS.keys()
    assert values["ece_p_value"] < 0.01 < values["calibrated_ece_p_value"]
    assert values["calibrated_ece"] == pytest.approx(ece(fit.probabilities(logits), labels, 15))
    assert values["calibrated_ece"] < quality(logits, labels, SPEC)["ece"]


def test_the_loss_keeps_rows_that_belong_together_in_one_fold() -> None:
    """Each row is there twice, so that without groups the other copy is fitted on."""
    logits, labels = (np.repeat(one, 2, axis=0) for one in made_up(60))
    groups = np.repeat(np.arange(60), 2)
    apart, together = (quality(logits, labels, SPEC, groups=one)["calibrated_nll"] for one in (None, groups))
    assert together == cross_fitted_nll(logits, labels, folds=SPEC.folds, groups=groups) != apart


def test_the_debiased_error_is_signed_and_near_0_for_a_model_that_is_right_about_itself() -> None:
    found = []
    for seed in range(60):
        logits, labels = made_up(300, seed)
        found.append(quality(logits / 3.0, labels, SPEC)["debiased_squared_error"])
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_the_worst_subgroup_is_that_of_the_least_accuracy_and_of_the_most_nll() -> None:
    logits, labels = made_up()
    names = np.array(["a", "b", "c", "d"])[np.arange(400) % 4]
    names[:30] = "small"
    found = subgroup_quality(logits, labels, names, SPEC)
    logs = cross_fitted_log_probabilities(logits, labels, folds=SPEC.folds)
    losses, right = -logs[np.arange(400), labels], logits.argmax(axis=1) == labels
    large = [names == name for name in "abcd"]
    assert found["worst_subgroup_nll"] == pytest.approx(max(losses[rows].mean() for rows in large))
    assert found["worst_subgroup_accuracy"] == pytest.approx(min(right[rows].mean() for rows in large))
    after = log_softmax(logits / 9.0)
    given = subgroup_quality(logits, labels, names, SPEC, after)["worst_subgroup_nll"]
    assert given == pytest.approx(max(-after[np.arange(400), labels][rows].mean() for rows in large))


def test_without_subgroups_or_with_too_few_rows_there_is_no_worst() -> None:
    logits, labels = made_up(40)
    assert subgroup_quality(logits, labels, None, SPEC) == {}
    assert subgroup_quality(logits, labels, np.array(["a", "b"] * 20), SPEC) == {}
