"""Conformal sets: the promise on simulations, the oracles, and what they are invariant to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import ConformalFit, crossed_coverage, fit_conformal
from calibration.errors import DocumentError, OptionError, SeenRowsError, ShapeError, TooFewRowsError

METHODS = ["lac", "aps"]


def split(probabilities, n, seed=0, **options):
    p, labels = probabilities(2 * n, seed=seed, **options)
    return (p[:n], labels[:n]), (p[n:], labels[n:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharpness", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_the_promise_is_kept_whatever_the_model(probabilities, method, sharpness, alpha) -> None:
    n, repeats = 99, 400
    found = []
    for seed in range(repeats):
        fitted, fresh = split(probabilities, n, seed, sharpness=sharpness)
        found.append(fit_conformal(*fitted, alpha, method, seed=seed).evaluate(*fresh).coverage)
    # Coverage given the fit is Beta(r, n + 1 - r) distributed, r the rank of the threshold; then binomial on top.
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    mean = rank / (n + 1)
    variance = mean * (1 - mean) / (n + 2) * (1 + (n + 1) / n)
    assert np.mean(found) == pytest.approx(mean, abs=3.3 * math.sqrt(variance / repeats))
    assert np.std(found) == pytest.approx(math.sqrt(variance), rel=0.15)


def test_aps_without_chance_keeps_the_promise_too(probabilities) -> None:
    found = []
    for seed in range(300):
        fitted, fresh = split(probabilities, 99, seed)
        found.append(fit_conformal(*fitted, 0.1, "aps", randomized=False).evaluate(*fresh).coverage)
    assert np.mean(found) == pytest.approx(0.9, abs=0.008)


@pytest.fixture
def mapie_classifier():
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        """A model whose inputs are its probabilities."""

        def __init__(self) -> None:
            self.classes_ = np.arange(4)
            self.fitted_ = True

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    def conformalized(method, p, labels, alpha):
        from mapie.classification import SplitConformalClassifier

        classifier = SplitConformalClassifier(
            Given(), confidence_level=1 - alpha, conformity_score=method, prefit=True, random_state=0
        )
        return classifier.conformalize(p, labels)

    return conformalized


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_lac_is_mapies(probabilities, mapie_classifier, alpha) -> None:
    (p, labels), (fresh, _) = split(probabilities, 250)
    theirs = mapie_classifier("lac", p, labels, alpha)
    ours = fit_conformal(p, labels, alpha)
    assert np.array_equal(ours.sets(fresh), theirs.predict_set(fresh)[1][:, :, 0])
    assert ours.threshold == pytest.approx(theirs._mapie_classifier.conformity_score_function_.quantiles_[0], abs=1e-9)


def test_the_aps_threshold_is_mapies_given_its_random_numbers(probabilities, mapie_classifier, monkeypatch) -> None:
    # MAPIE draws u for the calibration rows from a stream and takes u p_y off the sum that includes p_y; ours is a
    # hash of the row and adds u p_y to the sum above it. So 1 - u for u, and the thresholds are one.
    (p, labels), (fresh, _) = split(probabilities, 250)
    theirs = mapie_classifier("aps", p, labels, 0.1)
    theirs.predict_set(fresh)
    stream = np.random.RandomState(0).uniform(size=250)
    monkeypatch.setattr("calibration.conformal.unit_uniforms", lambda array, seed: 1.0 - stream)
    quantile = theirs._mapie_classifier.conformity_score_function_.quantiles_[0]
    assert fit_conformal(p, labels, 0.1, "aps").threshold == pytest.approx(quantile, abs=1e-9)


def test_lac_is_crepes(probabilities) -> None:
    import crepes
    from crepes import extras

    (p, labels), (fresh, _) = split(probabilities, 250)
    theirs = crepes.ConformalClassifier()
    theirs.fit(extras.hinge(p, np.arange(4), labels))
    for alpha in (0.05, 0.1, 0.3):
        expected = theirs.predict_set(extras.hinge(fresh), confidence=1 - alpha, smoothing=False)
        assert np.array_equal(fit_conformal(p, labels, alpha).sets(fresh), expected.astype(bool))


def test_aps_by_hand() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    fit = fit_conformal(p, [1, 1, 0], 0.5, "aps", randomized=False)
    # Sums down to the label: .8, .8, .8 (the first of the two .2 stands above); rank ceil(4 / 2) = 2.
    assert fit.threshold == pytest.approx(0.8)
    expected = [[True, True, False], [False, True, False], [True, False, True]]
    assert fit.sets(p - 1e-12 * np.eye(3)).tolist() == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_row_has_its_set_in_any_company(probabilities, method) -> None:
    (p, labels), (fresh, _) = split(probabilities, 200)
    fit = fit_conformal(p, labels, 0.1, method)
    rows = np.random.default_rng(0).permutation(200)
    assert fit_conformal(p[rows], labels[rows], 0.1, method).threshold == fit.threshold
    assert np.array_equal(fit.sets(fresh)[rows], fit.sets(fresh[rows]))
    assert np.array_equal(fit.sets(fresh)[7:8], fit.sets(fresh[7:8]))


@given(st.integers(0, 2**32 - 1), st.sampled_from(METHODS))
def test_less_risk_means_larger_sets(probabilities, seed, method) -> None:
    (p, labels), (fresh, _) = split(probabilities, 60, seed)
    small, large = (fit_conformal(p, labels, alpha, method).sets(fresh) for alpha in (0.3, 0.1))
    assert np.all(large >= small)


def test_lac_renames_with_its_classes(probabilities) -> None:
    (p, labels), (fresh, _) = split(probabilities, 100)
    classes = np.array([2, 0, 3, 1])
    fit, renamed = fit_conformal(p, labels), fit_conformal(p[:, classes], np.argsort(classes)[labels])
    assert np.array_equal(renamed.sets(fresh[:, classes]), fit.sets(fresh)[:, classes])


def test_options_outside_the_answer_set_are_in_no_set(probabilities) -> None:
    (p, labels), (fresh, fresh_labels) = split(probabilities, 100)
    fit = fit_conformal(p, labels, 0.02)
    allowed = np.ones((100, 4), dtype=bool)
    allowed[np.arange(100), (fresh_labels + 1) % 4] = False
    assert not np.any(fit.sets(fresh, allowed) & ~allowed)
    assert fit.evaluate(fresh, fresh_labels, answer_set=allowed).coverage == fit.evaluate(fresh, fresh_labels).coverage


def test_coverage_is_reported_in_parts(probabilities) -> None:
    (p, labels), (fresh, fresh_labels) = split(probabilities, 300, spread=3.0)
    fresh_labels = np.where(fresh_labels == 3, 0, fresh_labels)
    fit = fit_conformal(p, labels, 0.3)
    found, inside = fit.evaluate(fresh, fresh_labels), fit.sets(fresh)
    hit = inside[np.arange(300), fresh_labels]
    assert found.coverage == pytest.approx(hit.mean())
    assert found.mean_size == pytest.approx(inside.sum(axis=1).mean())
    assert found.empty == pytest.approx(np.mean(~inside.any(axis=1)))
    assert found.by_class[0] == pytest.approx(hit[fresh_labels == 0].mean())
    assert found.by_class[3] is None
    sizes = inside.sum(axis=1)
    assert set(found.by_size) == set(sizes)
    assert sum(found.by_size[size] * np.mean(sizes == size) for size in found.by_size) == pytest.approx(found.coverage)
    assert found.low < found.coverage < found.high
    assert json.loads(json.dumps(found.to_json()))["promised"] == pytest.approx(0.7)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (20, 20), (13, 20), (997, 1000)])
def test_the_interval_of_a_coverage_is_exact(hits, n) -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest
    from calibration.conformal import _clopper_pearson

    expected = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert _clopper_pearson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_both_halves_in_turn(probabilities, method) -> None:
    p, labels = probabilities(1000)
    found = crossed_coverage(p, labels, 0.1, method)
    assert found.n == 1000
    assert found.coverage == pytest.approx(0.9, abs=0.035)


@pytest.mark.parametrize("method", METHODS)
def test_masked_options_are_in_no_set_of_both_halves(method) -> None:
    """Labels of probability zero, one row in five, put the threshold where everything is in every set."""
    p = np.tile([[0.6, 0.4, 0.0]], (100, 1))
    labels = np.where(np.arange(100) % 5 == 0, 2, 0)
    allowed = np.column_stack([np.ones((100, 2), dtype=bool), labels == 2])
    assert crossed_coverage(p, labels, 0.1, method).mean_size > 2.5
    found = crossed_coverage(p, labels, 0.1, method, answer_set=allowed)
    assert found.mean_size <= 2.2
    with pytest.raises(ShapeError, match="answer_set"):
        crossed_coverage(p, labels, 0.1, method, answer_set=allowed[:50])


def test_too_few_rows_for_the_promise_are_refused(probabilities) -> None:
    p, labels = probabilities(9)
    assert fit_conformal(p, labels, 0.1).n == 9
    with pytest.raises(TooFewRowsError, match=r"8 rows cannot promise a miss rate of 0\.1; at least 9"):
        fit_conformal(p[:8], labels[:8], 0.1)
    with pytest.raises(TooFewRowsError, match="at least 19"):
        fit_conformal(p, labels, 0.05)


@pytest.mark.parametrize("method", METHODS)
def test_json_there_and_back(probabilities, method) -> None:
    (p, labels), (fresh, _) = split(probabilities, 100)
    fit = fit_conformal(p, labels, 0.2, method, seed=4)
    document = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    again = ConformalFit.from_json(document)
    assert again == fit
    assert np.array_equal(again.sets(fresh), fit.sets(fresh))
    with pytest.raises(SeenRowsError):
        again.evaluate(p, labels)
    for change in ({"alpha": 0}, {"alpha": 2.0}, {"kind": "raps"}, {"randomized": 1}, {"classes": 1}, {"new": 0}):
        with pytest.raises(DocumentError):
            ConformalFit.from_json({**document, **change})


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 1.0}, {"method": "raps"}, {"seed": -1}])
def test_options_out_of_range_are_refused(probabilities, options) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        fit_conformal(*probabilities(50), **options)


def test_another_number_of_classes_is_refused(probabilities) -> None:
    fit = fit_conformal(*probabilities(50))
    with pytest.raises(ShapeError, match="fitted on 4"):
        fit.sets(probabilities(5, 3)[0])
