"""The report: every number as its own function gives it, before and after, held out or cross-fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration import (
    ConformalFit,
    Settings,
    TemperatureFit,
    brier,
    calibrator_from_json,
    cross_fitted_probabilities,
    ece_floor,
    excess_aurc,
    fit_temperature,
    nll_from_logits,
    selective_accuracy,
)
from calibration.ece import debiased_squared_error, ece, ece_binary, ece_classwise, ece_equal_mass, mce, smooth_ece
from calibration.errors import OptionError
from calibration.report import report
from calibration.softmax import softmax

QUICK = Settings(draws=50, resamples=200)


def test_every_number_is_that_of_its_function(draw) -> None:
    logits, labels = draw(300, 2, temperature=3.0)
    found = report(logits, labels, kind="temperature", settings=QUICK)
    for card, p in ((found.before, softmax(logits)), (found.after, cross_fitted_probabilities(logits, labels))):
        assert card.accuracy == pytest.approx(np.mean(p.argmax(axis=1) == labels))
        assert card.nll == pytest.approx(-np.log(p[np.arange(300), labels]).mean())
        assert card.brier == pytest.approx(brier(p, labels))
        for name, score in {
            "ece": ece,
            "ece_equal_mass": ece_equal_mass,
            "ece_classwise": ece_classwise,
            "ece_binary": ece_binary,
            "mce": mce,
            "debiased_squared_error": debiased_squared_error,
            "smooth_ece": smooth_ece,
            "excess_aurc": excess_aurc,
        }.items():
            assert getattr(card, name) == pytest.approx(score(p, labels), abs=1e-9), name
        assert card.selective_accuracy[0.8] == pytest.approx(selective_accuracy(p, labels, 0.8))
        assert card.floors["top_label"] == ece_floor(p, labels, draws=50)
        assert set(card.intervals) == {"accuracy", "nll", "brier", "ece", "debiased_squared_error"}
        assert all(one.low <= one.estimate <= one.high for one in card.intervals.values())


def test_calibration_shows_in_it(draw) -> None:
    logits, labels = draw(600, temperature=5.0)
    found = report(logits, labels, settings=QUICK)
    assert (found.n, found.classes, found.how) == (600, 4, "cross_fitted")
    assert found.after.nll < found.before.nll
    assert found.differences["nll"].distinguishable
    assert found.differences["nll"].estimate == pytest.approx(found.after.nll - found.before.nll)
    assert found.before.floors["top_label"].p_value < 0.05
    assert found.after.floors["top_label"].p_value > 0.05
    assert found.before.ece_binary is None
    assert found.conformal["lac"].coverage == pytest.approx(0.9, abs=0.05)
    assert "isotonic" in found.left_out


def test_a_calibrator_of_other_rows_is_judged_on_these(draw) -> None:
    logits, labels = draw(400, temperature=4.0)
    fit = fit_temperature(logits[:200], labels[:200])
    found = report(logits[200:], labels[200:], calibrator=fit, settings=QUICK)
    assert found.how == "held_out"
    assert found.calibrator is fit
    assert found.cross_fitted_nll == {}
    assert found.after.nll == pytest.approx(nll_from_logits(fit.apply(logits[200:]), labels[200:]))
    with pytest.raises(OptionError, match="one of the two"):
        report(logits[200:], labels[200:], calibrator=fit, kind="vector", settings=QUICK)


def test_it_is_json_and_its_calibrator_can_be_read(draw) -> None:
    found = report(*draw(120, temperature=3.0), settings=QUICK)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["schema_version"], document["kind"], document["n"]) == (1, "report", 120)
    assert calibrator_from_json(document["calibrator"]) == found.calibrator
    assert document["before"]["floors"]["top_label"]["p_value"] == found.before.floors["top_label"].p_value
    assert document["settings"]["draws"] == 50


def test_the_text_has_every_part(draw) -> None:
    text = report(*draw(120, temperature=3.0), settings=QUICK).text()
    for part in (
        "120 rows, 4 classes; calibrated by temperature, cross-fitted",
        "not tried: vector (120 rows; from 400 for 8 numbers)",
        "top_label error",
        "floor",
        "not distinguishable",
        "accuracy at 80%",
        "conformal aps: promised 90%",
    ):
        assert part in text


def test_few_rows_and_infinite_scores_are_said_and_not_hidden(draw) -> None:
    logits, labels = draw(16, 2, temperature=3.0)
    found = report(logits, labels, settings=QUICK)
    assert found.conformal == {"lac": None, "aps": None}
    assert "too few rows to promise 90%" in found.text()
    sure = np.array([[0.0, -2000.0], [0.0, 3000.0]] * 20)
    wrong = np.array([0, 1] * 20)
    wrong[0] = 1
    document = report(sure, wrong, settings=QUICK).to_json()
    assert document["before"]["nll"] == pytest.approx(2000.0 / 40)


def test_masked_options_and_groups(draw) -> None:
    logits, labels = draw(300, 5, temperature=3.0, masked=True)
    found = report(logits, labels, kind="temperature", groups=np.arange(300) // 2, settings=QUICK)
    answered = np.where(np.isfinite(logits), logits, 0.0)
    masked = report(
        answered,
        labels,
        kind="temperature",
        answer_set=np.isfinite(logits),
        groups=np.arange(300) // 2,
        settings=QUICK,
    )
    assert found.to_json() == masked.to_json()


def test_masked_options_are_in_no_set(draw) -> None:
    """Sets of everything, given or fitted on probabilities that are far too sure, hold four of five options at most."""
    logits, labels = draw(300, 5, masked=True)
    sure = TemperatureFit(1e-4, None, "ok", 1.0, 1.0, 300)
    everything = ConformalFit("lac", 0.1, 1.0, True, 0, 5, 300)
    given = report(logits, labels, calibrator=sure, sets={"lac": everything, "aps": None}, settings=QUICK)
    assert given.conformal["lac"].mean_size == 4.0
    assert given.conformal["aps"] is None
    fitted = report(logits, labels, calibrator=sure, settings=QUICK)
    assert [fitted.conformal[method].mean_size for method in ("lac", "aps")] == [4.0, 4.0]


def test_groups_widen_the_intervals(draw) -> None:
    logits, labels = draw(60, temperature=3.0)
    logits, labels, groups = np.repeat(logits, 4, axis=0), np.repeat(labels, 4), np.repeat(np.arange(60), 4)
    plain = report(logits, labels, kind="temperature", settings=QUICK)
    grouped = report(logits, labels, kind="temperature", groups=groups, settings=QUICK)
    for found in ("before", "after"):
        one, other = (getattr(result, found).intervals["nll"] for result in (plain, grouped))
        assert other.high - other.low > 1.5 * (one.high - one.low)
    assert grouped.differences["nll"].high - grouped.differences["nll"].low > 0.0


def test_the_decomposition_is_part_of_it(draw) -> None:
    found = report(*draw(200, temperature=3.0), kind="temperature", settings=QUICK)
    assert found.decompositions["nll"].refinement == pytest.approx(found.after.nll, abs=1e-9)
    assert found.decompositions["brier"].total == pytest.approx(found.before.brier, abs=1e-9)


def test_it_is_deterministic(draw) -> None:
    logits, labels = draw(150, temperature=3.0)
    assert report(logits, labels, settings=QUICK).to_json() == report(logits, labels, settings=QUICK).to_json()
