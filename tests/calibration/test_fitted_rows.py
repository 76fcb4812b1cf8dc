"""Never scored on what it was fitted on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration import (
    FittedRows,
    TemperatureFit,
    fit_calibrator,
    fit_conformal,
    fit_temperature,
    held_out_log_probabilities,
    held_out_probabilities,
)
from calibration.errors import OptionError, SeenRowsError, ShapeError
from calibration.fitted_rows import content_keys, unit_uniforms
from calibration.report import report
from calibration.scorecard import Settings

QUICK = Settings(draws=10, resamples=100)
SCORERS = [held_out_probabilities, held_out_log_probabilities]


@pytest.fixture
def halves(draw):
    logits, labels = draw(200, temperature=3.0)
    return (logits[:100], labels[:100]), (logits[100:], labels[100:])


@pytest.mark.parametrize("kind", ["temperature", "vector", "bias_corrected", "isotonic", "histogram"])
@pytest.mark.parametrize("score", SCORERS)
def test_the_rows_of_the_fit_are_refused(halves, kind, score) -> None:
    (logits, labels), (fresh, _) = halves
    calibrator = fit_calibrator(kind, logits, labels)
    both = np.vstack([logits, fresh])
    for seen in (logits, logits[::-1], logits[:5], both, logits + 3.0, logits.astype(np.float32)):
        with pytest.raises(SeenRowsError, match="cross-fitting"):
            score(calibrator, seen)
    assert score(calibrator, fresh).shape == (100, 4)


def test_a_report_refuses_them_too_and_so_do_conformal_sets(halves) -> None:
    (logits, labels), (fresh, fresh_labels) = halves
    fit = fit_temperature(logits, labels)
    with pytest.raises(SeenRowsError):
        report(logits, labels, calibrator=fit, settings=QUICK)
    assert report(fresh, fresh_labels, calibrator=fit, settings=QUICK).how == "held_out"
    p = fit.probabilities(fresh)
    sets = fit_conformal(p, fresh_labels)
    with pytest.raises(SeenRowsError):
        sets.evaluate(p, fresh_labels)


def test_applying_is_never_refused(halves) -> None:
    (logits, labels), _ = halves
    assert fit_temperature(logits, labels).probabilities(logits).shape == logits.shape


def test_it_survives_json(halves) -> None:
    (logits, labels), _ = halves
    fit = TemperatureFit.from_json(json.loads(json.dumps(fit_temperature(logits, labels).to_json())))
    with pytest.raises(SeenRowsError):
        held_out_probabilities(fit, logits)


def test_by_id_one_shared_row_is_enough(halves) -> None:
    (logits, labels), (fresh, _) = halves
    fit = fit_temperature(logits, labels, ids=[f"a{i}" for i in range(100)])
    others = [f"b{i}" for i in range(100)]
    assert held_out_probabilities(fit, fresh, ids=others).shape == (100, 4)
    with pytest.raises(SeenRowsError, match="1 of 100 rows"):
        held_out_probabilities(fit, fresh, ids=[*others[:-1], "a7"])
    with pytest.raises(OptionError, match="pass ids="):
        held_out_probabilities(fit, fresh)
    with pytest.raises(ShapeError, match="99 ids for 100 rows"):
        held_out_probabilities(fit, fresh, ids=others[1:])


def test_whole_numbers_and_their_text_are_one_id(halves) -> None:
    (logits, labels), (fresh, _) = halves
    fit = fit_temperature(logits, labels, ids=np.arange(100))
    with pytest.raises(SeenRowsError, match="1 of 100"):
        held_out_probabilities(fit, fresh, ids=["5", *map(str, range(1000, 1099))])


@pytest.mark.parametrize("step", [0.03125, 0.25, 1.0])
def test_low_precision_twins_are_not_taken_for_the_same_rows(draw, step) -> None:
    """Rounded logits of two classes coincide by chance, often; the rule allows for that."""
    for seed in range(20):
        logits, labels = draw(1500, 2, seed=seed)
        rounded = np.round(logits / step) * step
        fit = fit_temperature(rounded[:500], labels[:500])
        assert held_out_probabilities(fit, rounded[500:]).shape == (1000, 2)


def test_a_collapsed_model_can_be_scored(draw) -> None:
    _, labels = draw(100)
    logits = np.tile([0.3, 0.1, -0.2, 0.5], (100, 1))
    fit = fit_temperature(logits[:50], labels[:50])
    assert held_out_probabilities(fit, logits[50:]).shape == (50, 4)


def test_a_calibrator_typed_in_by_hand_knows_no_rows(halves) -> None:
    (logits, _), _ = halves
    fit = TemperatureFit(2.0, None, "ok", 1.0, 0.9, 100)
    assert fit.fitted_on == FittedRows()
    assert held_out_probabilities(fit, logits).shape == (100, 4)


def test_keys_tell_rows_apart_and_ignore_shifts(draw) -> None:
    logits, _ = draw(20_000)
    keys = content_keys(logits)
    assert np.unique(keys).size == 20_000
    assert np.mean(keys == content_keys(logits + 2.0)) > 0.999  # rounding may part a few
    assert not np.any(keys == content_keys(logits[:, ::-1]))
    for bit in range(0, 64, 7):
        assert np.mean((keys >> np.uint64(bit)) & np.uint64(1)) == pytest.approx(0.5, abs=0.02)


def test_hashed_uniforms_are_uniform_and_belong_to_the_row(probabilities) -> None:
    kstest = pytest.importorskip("scipy.stats").kstest
    p, _ = probabilities(3000)
    u = unit_uniforms(p, 0)
    assert kstest(u, "uniform").pvalue > 0.01
    assert np.array_equal(unit_uniforms(p[5:9], 0), u[5:9])
    assert abs(np.corrcoef(u, unit_uniforms(p, 1))[0, 1]) < 0.06
