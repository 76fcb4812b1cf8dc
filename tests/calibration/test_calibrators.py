"""Calibrators beyond temperature: their optima, their oracles, their JSON."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import (
    FitOptions,
    calibrator_from_json,
    choose_calibrator,
    cross_fitted_log_probabilities,
    cross_fitted_probabilities,
    fit_calibrator,
    fit_temperature,
    nll,
    nll_from_logits,
)
from calibration.calibrators import Kind
from calibration.choice import out_of_fold
from calibration.errors import ConvergenceError, DocumentError, OptionError, ShapeError, TooFewRowsError
from calibration.folds import stratified_folds
from calibration.rows import checked_weights
from calibration.softmax import log_softmax, softmax

KINDS = get_args(Kind)
MANY = [kind for kind in KINDS if kind != "platt"]
seeds = st.integers(0, 2**32 - 1)


def skewed(draw, n, seed=0):
    """Return logits that need slopes and biases of their own by class, and the logits that their labels come from."""
    logits, _ = draw(n, seed=seed)
    truth = log_softmax(logits) * [0.3, 0.5, 0.8, 1.2] + [0.0, 1.0, -1.0, 0.5]
    labels = (truth + np.random.default_rng(seed).gumbel(size=truth.shape)).argmax(axis=1)
    return logits, labels, truth


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_such(draw, kind) -> None:
    logits, labels = draw(300, 2, temperature=3.0)
    calibrator = fit_calibrator(kind, logits, labels)
    p = calibrator.probabilities(logits)
    assert calibrator.kind == kind
    assert calibrator.n == 300
    assert p.shape == (300, 2)
    assert p == pytest.approx(softmax(calibrator.apply(logits)), abs=1e-12)
    assert p.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert p.min() > 0.0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(seed=seeds)
def test_a_shift_of_each_row_and_an_order_of_rows_change_nothing(draw, kind, seed) -> None:
    logits, labels = draw(80, 2, temperature=2.0, seed=seed)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(80)
    plain = fit_calibrator(kind, logits, labels).probabilities(logits)
    shifted = fit_calibrator(kind, logits + rng.normal(size=(80, 1)), labels).probabilities(logits)
    moved = fit_calibrator(kind, logits[rows], labels[rows]).probabilities(logits)
    assert np.allclose(plain, moved, atol=1e-7)
    if kind not in ("histogram", "isotonic"):  # a curve's corner may fall either way when rounding moves a row
        assert np.allclose(plain, shifted, atol=1e-7)


@pytest.mark.parametrize("kind", MANY)
@settings(max_examples=10)
@given(seed=seeds)
def test_an_order_of_classes_changes_nothing(draw, kind, seed) -> None:
    logits, labels = draw(80, temperature=2.0, seed=seed)
    classes = np.random.default_rng(seed).permutation(4)
    plain = fit_calibrator(kind, logits, labels).probabilities(logits)
    renamed = fit_calibrator(kind, logits[:, classes], np.argsort(classes)[labels])
    assert np.allclose(renamed.probabilities(logits[:, classes]), plain[:, classes], atol=1e-6)


@pytest.mark.parametrize("kind", MANY)
def test_weights_are_repetitions_where_nothing_counts_rows(draw, kind) -> None:
    # Priors, smoothing and Platt's targets count rows; without them, weights are repetitions exactly.
    logits, labels = draw(120, 2, temperature=2.0)
    weights = np.random.default_rng(1).integers(0, 4, 120)
    options = FitOptions(ridge=0.0, smoothing=0.0)
    weighted = fit_calibrator(kind, logits, labels, weights, options=options)
    repeated = fit_calibrator(kind, np.repeat(logits, weights, axis=0), np.repeat(labels, weights), options=options)
    assert np.allclose(weighted.probabilities(logits), repeated.probabilities(logits), atol=1e-6)


def test_a_richer_calibrator_mends_what_a_temperature_cannot(draw) -> None:
    (logits, labels, _), (fresh, fresh_labels, source) = skewed(draw, 6000, seed=1), skewed(draw, 6000, seed=2)
    truth = nll_from_logits(source, fresh_labels)
    losses = {kind: nll(fit_calibrator(kind, logits, labels).probabilities(fresh), fresh_labels) for kind in MANY}
    assert losses["vector"] == pytest.approx(truth, abs=0.005)
    assert losses["temperature"] > losses["bias_corrected"] > losses["vector"] + 0.005
    assert losses["isotonic"] < losses["temperature"]


@pytest.mark.parametrize("kind", ["vector", "bias_corrected"])
def test_the_ridged_optimum_is_scipys(draw, kind) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    logits, labels, _ = skewed(draw, 150)
    fit = fit_calibrator(kind, logits, labels, options=FitOptions(ridge=2.0))
    u = log_softmax(logits / fit_temperature(logits, labels).temperature)
    many = 4 if kind == "vector" else 1

    def loss(theta):
        logs = log_softmax(u * theta[:many] + theta[many:])
        penalty = np.square(theta[:many] - 1.0).sum() + np.square(theta[many:]).sum()
        return -logs[np.arange(150), labels].mean() + 2.0 / 150 / 2 * penalty

    start = np.append(np.ones(many), np.zeros(4))
    theirs = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-9})
    ours = np.append(np.array(fit.slopes[:many]), fit.biases)
    assert loss(ours) <= theirs.fun + 1e-12
    assert ours == pytest.approx(theirs.x, abs=1e-4)


def test_a_strong_ridge_is_the_temperature_alone(draw) -> None:
    logits, labels, _ = skewed(draw, 150)
    plain = fit_temperature(logits, labels).probabilities(logits)
    for kind in ("vector", "bias_corrected"):
        bound = fit_calibrator(kind, logits, labels, options=FitOptions(ridge=1e9))
        assert np.allclose(bound.probabilities(logits), plain, atol=1e-5)


def test_platt_is_scikit_learns(draw) -> None:
    calibration_module = pytest.importorskip("sklearn.calibration")
    logits, labels = draw(200, 2, temperature=3.0)
    margin = logits[:, 1] - logits[:, 0]
    theirs = calibration_module._SigmoidCalibration().fit(margin, labels)
    ours = fit_calibrator("platt", logits, labels)
    # Its optimiser stops early (1e-5); the objective is the same, and ours is at its minimum.
    assert ours.probabilities(logits)[:, 1] == pytest.approx(theirs.predict(margin), abs=1e-4)
    slope, bias = ours.to_json()["slopes"][0], ours.to_json()["biases"][1]
    positives = int(labels.sum())
    goal = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (200 - positives + 2))

    def loss(a, b):
        z = a * margin + b
        return np.mean(np.logaddexp(0.0, z) - goal * z)

    assert loss(slope, bias) <= loss(-theirs.a_, -theirs.b_) + 1e-15
    for a, b in ((1e-4, 0), (-1e-4, 0), (0, 1e-4), (0, -1e-4)):
        assert loss(slope, bias) < loss(slope + a, bias + b)


def test_platt_survives_separable_rows() -> None:
    logits = np.array([[0.0, -4.0], [0.0, -2.0], [0.0, 2.0], [0.0, 3.0]])
    p = fit_calibrator("platt", logits, [0, 0, 1, 1]).probabilities(logits)[:, 1]
    assert np.all(np.diff(p) > 0.0)
    assert 0.1 < p.min() < p.max() < 0.9


@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_is_scikit_learns(draw, weighted) -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    logits, labels = draw(300, 2, temperature=3.0)
    fresh, _ = draw(300, 2, temperature=3.0, seed=9)
    weights = np.random.default_rng(0).random(300) if weighted else None
    ours = fit_calibrator("isotonic", logits, labels, weights, options=FitOptions(smoothing=0.0))
    temperature = fit_temperature(logits, labels, weights).temperature
    theirs = isotonic.IsotonicRegression(out_of_bounds="clip")
    theirs.fit(softmax(logits / temperature)[:, 1], labels, sample_weight=weights)
    expected = theirs.predict(softmax(fresh / temperature)[:, 1])
    assert ours.probabilities(fresh)[:, 1] == pytest.approx(expected, abs=1e-9)


def test_isotonic_with_several_classes_is_scikit_learns(draw) -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    logits, labels = draw(400, temperature=2.0)
    fresh, _ = draw(200, temperature=2.0, seed=9)
    ours = fit_calibrator("isotonic", logits, labels, options=FitOptions(smoothing=0.0))
    temperature = fit_temperature(logits, labels).temperature
    p, q = softmax(logits / temperature), softmax(fresh / temperature)
    raw = np.column_stack(
        [isotonic.IsotonicRegression(out_of_bounds="clip").fit(p[:, k], labels == k).predict(q[:, k]) for k in range(4)]
    )
    total = raw.sum(axis=1, keepdims=True)
    assert ours.probabilities(fresh) == pytest.approx(np.where(total > 0, raw / total, 0.25), abs=1e-9)


def test_histogram_is_the_frequency_in_each_bin(draw) -> None:
    logits, labels = draw(300, 2, temperature=2.0)
    fit = fit_calibrator("histogram", logits, labels, options=FitOptions(bins=10, smoothing=0.0))
    p = softmax(logits / fit_temperature(logits, labels).temperature)[:, 1]
    calibrated = fit.probabilities(logits)[:, 1]
    for part in np.array_split(np.argsort(p), 10):
        assert calibrated[part] == pytest.approx(labels[part].mean(), abs=1e-12)


def test_smoothing_keeps_curves_from_zero(draw) -> None:
    logits, labels = draw(60, temperature=5.0)
    for kind in ("isotonic", "histogram"):
        assert fit_calibrator(kind, logits, labels).probabilities(logits).min() >= 1 / 4 / 61 / 2
        bare = fit_calibrator(kind, logits, labels, options=FitOptions(smoothing=0.0))
        assert bare.probabilities(logits).min() == 0.0
        assert np.isneginf(bare.apply(logits)).any()


def test_isotonic_keeps_the_order_of_two_classes(draw) -> None:
    logits, labels = draw(300, 2, temperature=3.0)
    p = fit_calibrator("isotonic", logits, labels).probabilities(logits)[:, 1]
    assert np.all(np.diff(p[np.argsort(logits[:, 1] - logits[:, 0])]) >= -1e-15)


@pytest.mark.parametrize("kind", MANY)
def test_masked_options_have_probability_zero(draw, kind) -> None:
    logits, labels = draw(300, 5, temperature=3.0, masked=True)
    calibrator = fit_calibrator(kind, logits, labels)
    p = calibrator.probabilities(logits)
    assert np.array_equal(p == 0.0, np.isneginf(logits))
    assert np.array_equal(np.isneginf(calibrator.apply(logits)), np.isneginf(logits))
    assert p.sum(axis=1) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("kind", MANY)
def test_a_class_without_labels_is_possible(draw, kind) -> None:
    logits, labels = draw(100, 3)
    labels = np.where(labels == 2, 0, labels)
    p = fit_calibrator(kind, logits, labels).probabilities(logits)
    assert np.all(np.isfinite(p))
    assert p[:, 2].min() > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_separable_and_collapsed_rows_are_survived(draw, kind) -> None:
    logits, _ = draw(100, 2, temperature=20.0)
    for z, labels in ((logits, logits.argmax(axis=1)), (np.zeros((100, 2)), np.arange(100) % 2)):
        assert np.all(np.isfinite(fit_calibrator(kind, z, labels).probabilities(z)))


@pytest.mark.parametrize("kind", KINDS)
def test_json_there_and_back(draw, kind) -> None:
    logits, labels = draw(150, 2, temperature=3.0)
    fit = fit_calibrator(kind, logits, labels)
    document = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    again = calibrator_from_json(document)
    assert again == fit
    assert np.array_equal(again.probabilities(logits), fit.probabilities(logits))
    for change in ({"schema_version": 0}, {"kind": "none"}, {"n": -1}, {"extra": None}, {"temperature": "1"}):
        with pytest.raises(DocumentError):
            calibrator_from_json({**document, **change})
    for key in document:
        with pytest.raises(DocumentError):
            calibrator_from_json({name: value for name, value in document.items() if name != key})


def test_other_documents_are_refused(draw) -> None:
    logits, labels = draw(150, 2)
    vector = fit_calibrator("vector", logits, labels).to_json()
    curve = fit_calibrator("isotonic", logits, labels).to_json()
    for broken in (
        {**vector, "slopes": [1.0]},
        {**vector, "slopes": []},
        {**vector, "biases": [float("inf"), 0.0]},
        {**curve, "curves": [{"x": [0.5, 0.2], "y": [0.1, 0.2]}]},
        {**curve, "curves": [{"x": [0.5], "y": [1.2]}]},
        {**curve, "curves": [{"x": [0.5], "y": [0.1, 0.2]}]},
        {**curve, "curves": [3]},
        [],
        None,
    ):
        with pytest.raises(DocumentError):
            calibrator_from_json(broken)  # type: ignore[arg-type]


def test_another_number_of_classes_is_refused(draw) -> None:
    logits, labels = draw(150, 3)
    for kind in ("vector", "isotonic"):
        with pytest.raises(ShapeError, match="fitted on 3"):
            fit_calibrator(kind, logits, labels).probabilities(logits[:, :2])


def test_an_optimum_that_is_not_reached_is_said(draw) -> None:
    rng = np.random.default_rng(3)
    logits, labels = 1e8 * rng.normal(size=(500, 4)), rng.integers(0, 4, 500)
    with pytest.raises(ConvergenceError, match="'temperature'"):
        fit_calibrator("vector", logits, labels)
    choice = choose_calibrator(logits, labels)
    assert choice.kind != "vector"
    assert "did not reach" in choice.left_out["vector"]


def test_platt_is_for_two_complete_classes(draw) -> None:
    with pytest.raises(OptionError, match="two classes"):
        fit_calibrator("platt", *draw(50, 3))
    logits, labels = draw(50, 2)
    logits[np.arange(50), 1 - labels] = np.where(np.arange(50) < 2, -np.inf, 0.0)
    with pytest.raises(OptionError, match="both options"):
        fit_calibrator("platt", logits, labels)


@pytest.mark.parametrize("options", [{"ridge": -1.0}, {"ridge": float("nan")}, {"smoothing": -0.1}, {"bins": 0}])
def test_options_are_checked_when_made(options) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        FitOptions(**options)


def test_an_unknown_kind_is_refused(draw) -> None:
    with pytest.raises(OptionError, match="temperature, bias_corrected"):
        fit_calibrator("beta", *draw(50))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_cross_fitted_probabilities_are_of_the_other_folds(draw, kind) -> None:
    logits, labels = draw(101, 2, temperature=3.0)
    p = cross_fitted_probabilities(logits, labels, kind=kind, folds=4, seed=3)
    fold = stratified_folds(labels, 4, 3)
    for number in range(4):
        rest = fold != number
        other = fit_calibrator(kind, logits[rest], labels[rest])
        assert np.allclose(p[~rest], other.probabilities(logits[~rest]), atol=1e-9)


def test_a_row_does_not_take_part_in_its_own_calibration(draw) -> None:
    logits, labels = draw(60, temperature=3.0)
    plain = cross_fitted_probabilities(logits, labels, kind="vector", groups=np.arange(60))
    changed = labels.copy()
    changed[7] = (changed[7] + 1) % 4
    other = cross_fitted_probabilities(logits, changed, kind="vector", groups=np.arange(60))
    fold = stratified_folds(labels, 5, 0, np.arange(60))
    if np.array_equal(fold, stratified_folds(changed, 5, 0, np.arange(60))):
        assert np.array_equal(plain[7], other[7])
    share = checked_weights(None, 60)
    for targets in (labels, changed):
        logs = out_of_fold("vector", logits, targets, share, fold, FitOptions())
        assert np.array_equal(logs[7], out_of_fold("vector", logits, labels, share, fold, FitOptions())[7])


def test_cross_fitted_rows_keep_log_probabilities_that_underflow() -> None:
    # Separable but for one row, whose fold is scaled by T = 0.05: its probability is 0 in float64, its log is not.
    logits = np.column_stack([np.zeros(20), np.where(np.arange(20) % 2, 60.0, -60.0)])
    labels = (np.arange(20) % 2).astype(int)
    labels[0] = 1
    logs = cross_fitted_log_probabilities(logits, labels)
    assert np.isfinite(logs[np.arange(20), labels]).all()
    assert logs[0, 1] == pytest.approx(-1200.0)


def test_rows_of_weight_zero_are_calibrated_and_fitted_on_by_none(draw) -> None:
    logits, labels = draw(80, temperature=3.0)
    weights = np.ones(80)
    weights[::3] = 0.0
    changed = np.where(weights == 0.0, (labels + 1) % 4, labels)
    fold = stratified_folds(labels, 5, 0)
    share = checked_weights(weights, 80)
    one, other = (out_of_fold("vector", logits, y, share, fold, FitOptions()) for y in (labels, changed))
    assert np.array_equal(one, other)
    with pytest.raises(TooFewRowsError, match="outside one fold"):
        out_of_fold("vector", logits, labels, checked_weights((fold == 0).astype(float), 80), fold, FitOptions())
