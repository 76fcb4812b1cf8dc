"""The perfect-model floor: its p-value is uniform where it should be, and small where it should be."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest

from calibration.ece import debiased_squared_error, ece, ece_binary, ece_classwise, ece_equal_mass, mce, smooth_ece
from calibration.floor import Definition, consistency_band, ece_floor
from calibration.outcomes import top_label

SCORE = {
    "top_label": ece,
    "equal_mass": ece_equal_mass,
    "classwise": ece_classwise,
    "binary": ece_binary,
    "maximum": mce,
    "debiased": debiased_squared_error,
    "smooth": lambda p, labels, _bins, **options: smooth_ece(p, labels, **options),
}


def test_the_p_value_is_uniform_for_a_thousand_perfect_models(probabilities) -> None:
    kstest = pytest.importorskip("scipy.stats").kstest
    p_values = [ece_floor(*probabilities(200, seed=seed), draws=199, seed=seed).p_value for seed in range(1000)]
    assert kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("definition", [one for one in get_args(Definition) if one not in ("top_label", "maximum")])
def test_the_p_value_of_every_definition_is_uniform(probabilities, definition) -> None:
    kstest = pytest.importorskip("scipy.stats").kstest
    k = 2 if definition == "binary" else 3
    models = 60 if definition == "smooth" else 300
    p_values = [
        ece_floor(*probabilities(120, k, seed=seed), draws=99, seed=seed, definition=definition).p_value
        for seed in range(models)
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_the_p_value_of_the_maximum_is_never_too_small(probabilities) -> None:
    # One row alone in a bin is often the worst in the data and in the draws alike; such ties all count against
    # the evidence, so the p-value is larger than uniform.
    kstest = pytest.importorskip("scipy.stats").kstest
    found = [ece_floor(*probabilities(120, 3, seed=s), draws=99, seed=s, definition="maximum") for s in range(300)]
    assert kstest([floor.p_value for floor in found], "uniform", alternative="greater").pvalue > 0.01


def test_the_p_value_is_uniform_with_weights(probabilities) -> None:
    kstest = pytest.importorskip("scipy.stats").kstest
    weights = np.random.default_rng(0).exponential(size=150)
    found = [ece_floor(*probabilities(150, seed=s), draws=99, seed=s, weights=weights).p_value for s in range(300)]
    assert kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("definition", get_args(Definition))
def test_an_overconfident_model_is_found_out(probabilities, definition) -> None:
    p, labels = probabilities(400, 2 if definition == "binary" else 4, sharpness=3.0)
    # In fifteen bins the worst may well be a bin of one row; in four it is not.
    floor = ece_floor(p, labels, 4, draws=200, definition=definition)
    assert floor.p_value <= 0.02
    assert floor.ece > floor.floor_mean
    assert floor.definition == definition


@pytest.mark.parametrize("definition", get_args(Definition))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_is_that_of_the_score(probabilities, definition, weighted) -> None:
    p, labels = probabilities(150, 2, sharpness=2.0)
    weights = np.random.default_rng(1).random(150) if weighted else None
    floor = ece_floor(p, labels, 10, draws=5, definition=definition, weights=weights)
    # The smooth floor is computed on a coarser grid, the same for the data and the draws.
    tolerance = 2e-4 if definition == "smooth" else 1e-12
    assert floor.ece == pytest.approx(SCORE[definition](p, labels, 10, weights=weights), abs=tolerance)


def test_the_published_floors_of_a_four_class_model() -> None:
    # Dirichlet-like sharp models: 10.8 % at 100 rows, 3.4 % at 1,000, within what the choice of model moves.
    rng = np.random.default_rng(0)
    means = {}
    for n in (100, 1000, 5000):
        p = rng.dirichlet(np.ones(4), size=n)
        labels = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        means[n] = ece_floor(p, labels, draws=200).floor_mean
    assert means[100] == pytest.approx(0.108, abs=0.015)
    assert means[1000] == pytest.approx(0.034, abs=0.006)
    assert means[5000] == pytest.approx(0.015, abs=0.003)


def test_an_order_of_rows_changes_nothing(probabilities) -> None:
    p, labels = probabilities(100, sharpness=1.3)
    rows = np.random.default_rng(3).permutation(100)
    for definition in ("top_label", "classwise", "equal_mass"):
        one = ece_floor(p, labels, draws=50, definition=definition)
        other = ece_floor(p[rows], labels[rows], draws=50, definition=definition)
        assert one.to_json() == pytest.approx(other.to_json(), abs=1e-12)


def test_many_chunks_are_one_stream(probabilities, monkeypatch) -> None:
    p, labels = probabilities(100)
    whole = ece_floor(p, labels, draws=64)
    monkeypatch.setattr("calibration.floor._CHUNK", 700)
    assert ece_floor(p, labels, draws=64) == whole


def test_the_p_value_is_never_zero_and_the_result_is_json(probabilities) -> None:
    floor = ece_floor(*probabilities(500, sharpness=5.0), draws=9)
    assert floor.p_value == 0.1
    assert json.loads(json.dumps(floor.to_json()))["definition"] == "top_label"


def test_the_consistency_band_covers_a_perfect_model(probabilities) -> None:
    inside = []
    for seed in range(60):
        band = consistency_band(top_label(*probabilities(1000, seed=seed)), draws=300, seed=seed)
        steady = band.share > 0.02  # a bin of few rows has few possible frequencies, and covers more
        inside += list(((band.low <= band.frequency) & (band.frequency <= band.high))[steady])
    assert np.mean(inside) == pytest.approx(0.955, abs=0.025)


def test_the_consistency_band_does_not_cover_an_overconfident_one(probabilities) -> None:
    band = consistency_band(top_label(*probabilities(2000, sharpness=3.0)))
    outside = (band.frequency < band.low) | (band.frequency > band.high)
    assert band.share[outside].sum() > 0.8
