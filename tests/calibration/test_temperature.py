"""The temperature solver: the stress suite, its invariances, its oracle, and what it says at the ends."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibration import Case, excess_nll, stress_cases
from calibration import TemperatureFit, cross_fitted_nll, fit_temperature, nll_from_logits, temperature
from calibration.errors import DocumentError, OneClassError, OptionError, TooFewRowsError, WeightError
from calibration.folds import stratified_folds

CASES = list(stress_cases())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stress_suite(case: Case) -> None:
    fit = fit_temperature(case.logits, case.labels)
    assert excess_nll(case, fit.temperature) <= 1e-10
    assert fit.status in case.statuses
    assert (fit.standard_error is None) == (fit.status != "ok")
    assert fit.nll_after <= fit.nll_before + 1e-15
    assert fit.n == len(case.labels)


def test_the_suite_has_twelve_cases_and_every_status() -> None:
    seen = {fit_temperature(case.logits, case.labels).status for case in CASES}
    assert len(CASES) == 12
    assert seen == {"ok", "separable", "anti_correlated", "constant", "at_lower_bound", "at_upper_bound"}


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8, 1e90])
def test_any_scale_of_logits(draw, scale) -> None:
    logits, labels = draw(300)
    case = Case("scaled", logits * scale, labels)
    fit = fit_temperature(case.logits, case.labels)
    assert excess_nll(case, fit.temperature) <= 1e-10 * max(1.0, scale)
    assert fit.status == {1e-8: "at_lower_bound", 1e-3: "at_lower_bound"}.get(scale, "at_upper_bound")


@pytest.mark.parametrize("truth", [0.06, 0.3, 1.0, 3.0, 30.0, 90.0])
def test_a_few_looks_at_the_rows_are_enough(draw, monkeypatch: pytest.MonkeyPatch, truth: float) -> None:
    """What it takes is told in looks at all rows, the same on every machine; the benchmark tells the time."""
    looks, look = [], temperature._Problem.at
    monkeypatch.setattr(temperature._Problem, "at", lambda self, beta: looks.append(beta) or look(self, beta))
    logits, labels = draw(10_000, 10, temperature=truth)
    assert fit_temperature(logits, labels).status == "ok"
    assert len(looks) <= 12


def test_equal_to_scikit_learn_where_that_has_an_interior_optimum() -> None:
    calibration_module = pytest.importorskip("sklearn.calibration")
    for case in CASES:
        fit = fit_temperature(case.logits, case.labels)
        if fit.status != "ok" or not np.all(np.isfinite(case.logits)):
            continue  # at the ends scikit-learn goes on to exp(+-10) and says nothing; it takes no infinities
        theirs = calibration_module._TemperatureScaling().fit(case.logits, case.labels)
        assert fit.temperature * float(theirs.beta_) == pytest.approx(1.0, abs=1e-6)
        scaled = nll_from_logits(case.logits * float(theirs.beta_), case.labels)
        assert fit.nll_after == pytest.approx(scaled, abs=1e-9)
        assert fit.nll_after <= scaled + 1e-15


def test_scikit_learn_takes_some_logits_for_probabilities_and_we_refuse() -> None:
    calibration_module = pytest.importorskip("sklearn.calibration")
    logits, labels = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), np.array([0, 1, 1])
    shifted = 1.0 / calibration_module._TemperatureScaling().fit(logits + 5.0, labels).beta_
    assert 1.0 / calibration_module._TemperatureScaling().fit(logits, labels).beta_ != pytest.approx(shifted, rel=0.1)
    assert fit_temperature(logits + 5.0, labels).temperature == pytest.approx(shifted, rel=1e-6)
    with pytest.raises(ValueError, match="probabilities"):
        fit_temperature(logits, labels)


seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.2, 30.0)


@given(seeds, temperatures, st.floats(-1e3, 1e3))
def test_a_shift_of_each_row_changes_nothing(draw, seed, temperature, size) -> None:
    logits, labels = draw(60, temperature=temperature, seed=seed)
    shift = size * np.random.default_rng(seed).normal(size=(60, 1))
    plain, shifted = fit_temperature(logits, labels), fit_temperature(logits + shift, labels)
    assert shifted.temperature == pytest.approx(plain.temperature, rel=1e-7)
    assert shifted.nll_after == pytest.approx(plain.nll_after, abs=1e-9)


@given(seeds, temperatures)
def test_an_order_of_rows_or_classes_changes_nothing(draw, seed, temperature) -> None:
    logits, labels = draw(60, temperature=temperature, seed=seed)
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(60), rng.permutation(4)
    plain = fit_temperature(logits, labels)
    for other in (
        fit_temperature(logits[rows], labels[rows]),
        fit_temperature(logits[:, classes], np.argsort(classes)[labels]),
    ):
        assert other.temperature == pytest.approx(plain.temperature, rel=1e-9)
        assert (other.status, other.n) == (plain.status, plain.n)


@given(seeds, temperatures)
def test_no_argmax_changes_and_probabilities_keep_their_order(draw, seed, temperature) -> None:
    logits, labels = draw(60, temperature=temperature, seed=seed)
    fit = fit_temperature(logits, labels)
    p = fit.probabilities(logits)
    assert np.array_equal(p.argmax(axis=1), logits.argmax(axis=1))
    assert np.all(np.diff(np.take_along_axis(p, np.argsort(logits, axis=1), axis=1), axis=1) >= 0.0)
    assert np.allclose(p.sum(axis=1), 1.0, atol=1e-12)


@given(seeds, st.floats(0.5, 4.0))
def test_scaling_the_logits_scales_the_temperature(draw, seed, factor) -> None:
    logits, labels = draw(80, temperature=2.0, seed=seed)
    plain, scaled = fit_temperature(logits, labels), fit_temperature(logits * factor, labels)
    if plain.status == scaled.status == "ok":
        assert scaled.temperature == pytest.approx(plain.temperature * factor, rel=1e-8)


@given(seeds)
def test_whole_weights_are_repetitions(draw, seed) -> None:
    logits, labels = draw(50, temperature=2.0, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, 50)
    if len(set(labels[weights > 0])) < 2:
        return
    weighted = fit_temperature(logits, labels, weights)
    repeated = fit_temperature(np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-9)
    assert weighted.n == np.sum(weights > 0)
    assert fit_temperature(logits, labels, 7.5 * weights).temperature == pytest.approx(weighted.temperature, rel=1e-12)


def test_it_is_deterministic_to_the_bit(draw) -> None:
    logits, labels = draw(500, temperature=3.0)
    assert fit_temperature(logits, labels) == fit_temperature(logits.copy(), labels.copy())


def test_an_option_outside_the_answer_set_is_as_if_it_were_not_there(draw) -> None:
    logits, labels = draw(200, 3, temperature=3.0)
    wider = np.hstack([logits, np.full((200, 1), 7.0)])
    answer_set = np.array([True, True, True, False])
    fit, plain = fit_temperature(wider, labels, answer_set=answer_set), fit_temperature(logits, labels)
    assert fit.temperature == plain.temperature
    assert np.all(fit.probabilities(wider, answer_set)[:, 3] == 0.0)
    assert np.all(fit.apply(wider, answer_set)[:, 3] == -np.inf)
    assert np.array_equal(fit.probabilities(wider, answer_set)[:, :3], plain.probabilities(logits))


def test_minus_ten_thousand_is_no_mask_but_an_infinity_is(draw) -> None:
    logits, _ = draw(400, 3, temperature=3.0, seed=1)
    labels = np.random.default_rng(0).permutation(logits.argmin(axis=1))
    as_number = np.hstack([logits, np.full((400, 1), -1e4)])
    as_mask = np.hstack([logits, np.full((400, 1), -np.inf)])
    assert fit_temperature(as_mask, labels).status == fit_temperature(logits, labels).status == "anti_correlated"
    assert fit_temperature(as_number, labels).status == "at_upper_bound"


def test_the_standard_error_is_the_spread_over_samples(draw) -> None:
    fits = [fit_temperature(*draw(300, temperature=3.0, seed=seed)) for seed in range(400)]
    temperatures = np.array([fit.temperature for fit in fits])
    assert np.mean([fit.standard_error for fit in fits]) == pytest.approx(temperatures.std(), rel=0.12)
    inside = [abs(fit.temperature - 3.0) < 1.96 * (fit.standard_error or math.nan) for fit in fits]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_equal_weights_leave_the_standard_error_alone(draw) -> None:
    logits, labels = draw(300, temperature=3.0)
    plain, weighted = fit_temperature(logits, labels), fit_temperature(logits, labels, np.full(300, 9.0))
    assert weighted.standard_error == pytest.approx(plain.standard_error, rel=1e-12)


def test_json_there_and_back(draw) -> None:
    for case in CASES:
        fit = fit_temperature(case.logits, case.labels)
        document = json.loads(json.dumps(fit.to_json(), allow_nan=False))
        assert document["schema_version"] == 1
        assert TemperatureFit.from_json(document) == fit


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"kind": "vector"},
        {"temperature": -1.0},
        {"temperature": True},
        {"temperature": float("nan")},
        {"status": "fine"},
        {"n": 0},
        {"n": 3.0},
        {"more": 1},
        {"fitted_on": None},
        {"fitted_on": {"by": "content", "n": 1, "keys": "!"}},
        {"fitted_on": {"by": "content", "n": 1, "keys": "AAAA"}},
    ],
)
def test_another_document_is_refused(draw, change) -> None:
    document = fit_temperature(*draw(50, temperature=2.0)).to_json()
    with pytest.raises(DocumentError):
        TemperatureFit.from_json({**document, **change})
    with pytest.raises(DocumentError):
        TemperatureFit.from_json([document])  # type: ignore[arg-type]


def test_cross_fitted_nll_scores_each_fold_with_the_others_temperature(draw) -> None:
    logits, labels = draw(103, temperature=4.0)
    fold = stratified_folds(labels, 5, 3)
    losses = []
    for number in range(5):
        fit = fit_temperature(logits[fold != number], labels[fold != number])
        held_out = fold == number
        losses += [nll_from_logits(fit.apply(logits[held_out]), labels[held_out])] * int(held_out.sum())
    assert cross_fitted_nll(logits, labels, 5, 3) == pytest.approx(np.mean(losses), abs=1e-12)
    assert cross_fitted_nll(logits, labels, 5, 3) == cross_fitted_nll(logits, labels, 5, 3)
    assert cross_fitted_nll(logits, labels, 5, 3) > fit_temperature(logits, labels).nll_after


def test_whole_weights_of_a_cross_fitted_nll_are_repetitions(draw) -> None:
    """A fold for each row, and for all repetitions of it."""
    logits, labels = draw(25, 3, temperature=3.0)
    weights = np.random.default_rng(0).integers(0, 4, 25)
    rows = np.repeat(np.arange(25), weights)
    weighted = cross_fitted_nll(logits, labels, 25, weights=weights)
    repeated = cross_fitted_nll(logits[rows], labels[rows], int(np.sum(weights > 0)), groups=rows)
    assert weighted == pytest.approx(repeated, abs=1e-9)
    assert weighted != pytest.approx(cross_fitted_nll(logits, labels, 25), abs=1e-3)
    assert cross_fitted_nll(logits, labels, weights=np.full(25, 3.0)) == pytest.approx(cross_fitted_nll(logits, labels))


def test_weights_of_a_cross_fitted_nll_are_checked(draw) -> None:
    logits, labels = draw(30, 2)
    with pytest.raises(WeightError):
        cross_fitted_nll(logits, labels, weights=-np.ones(30))
    with pytest.raises(OneClassError, match="class 1"):
        cross_fitted_nll(logits, labels, weights=labels == 1)
    one_fold = stratified_folds(labels, 5, 0) == 0
    with pytest.raises(TooFewRowsError, match="outside one fold"):
        cross_fitted_nll(logits, labels, weights=one_fold)


def test_cross_fitted_nll_is_near_the_truth_where_raw_nll_is_not(draw) -> None:
    honest, labels = draw(2000, temperature=1.0, seed=5)
    truth = nll_from_logits(honest, labels)
    assert cross_fitted_nll(honest * 8.0, labels) == pytest.approx(truth, abs=2e-3)
    assert nll_from_logits(honest * 8.0, labels) > truth + 1.0


def test_cross_fitting_needs_enough_rows_and_groups(draw) -> None:
    logits, labels = draw(8)
    with pytest.raises(TooFewRowsError, match="8 rows cannot fill 9 folds"):
        cross_fitted_nll(logits, labels, folds=9)
    with pytest.raises(OptionError, match="folds"):
        cross_fitted_nll(logits, labels, folds=1)
    with pytest.raises(TooFewRowsError, match="4 groups"):
        cross_fitted_nll(logits, labels, folds=5, groups=np.arange(8) // 2)


def test_cross_fitting_survives_a_class_of_one_row(draw) -> None:
    logits, labels = draw(30, 2, temperature=3.0)
    labels = np.zeros_like(labels)
    labels[4] = 1
    assert np.isfinite(cross_fitted_nll(logits, labels))
