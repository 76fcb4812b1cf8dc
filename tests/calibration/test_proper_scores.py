"""NLL and Brier against scikit-learn, and the decomposition against what it must add up to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import (
    brier,
    brier_binary,
    cross_fitted_nll,
    decomposition,
    nll,
    nll_from_logits,
)
from calibration.errors import OptionError

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [2, 5])
def test_equal_to_scikit_learn(draw, k, weighted) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = draw(500, k, temperature=2.0)
    powers = np.exp(logits)
    p = powers / powers.sum(axis=1, keepdims=True)
    weights = np.random.default_rng(0).random(500) if weighted else None
    theirs = metrics.log_loss(labels, p, labels=range(k), sample_weight=weights)
    assert nll(p, labels, weights) == pytest.approx(theirs, abs=1e-9)
    assert nll_from_logits(logits, labels, weights) == pytest.approx(theirs, abs=1e-9)
    full = metrics.brier_score_loss(labels, p, labels=range(k), sample_weight=weights, scale_by_half=False)
    assert brier(p, labels, weights) == pytest.approx(full, abs=1e-9)
    if k == 2:
        binary = metrics.brier_score_loss(labels, p[:, 1], sample_weight=weights)
        assert brier_binary(p, labels, weights) == pytest.approx(binary, abs=1e-9)
        assert brier_binary(p[:, 1], labels, weights) == pytest.approx(binary, abs=1e-9)
        assert brier(p, labels, weights) == pytest.approx(2 * binary, abs=1e-9)


def test_unlike_scikit_learn_a_probability_of_zero_is_not_moved() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    p, labels = np.array([[1.0, 0.0], [0.5, 0.5]]), [1, 0]
    assert np.isfinite(metrics.log_loss(labels, p))
    assert nll(p, labels) == np.inf
    assert nll(p, [0, 1]) == pytest.approx(np.log(2) / 2)


def test_logits_keep_what_probabilities_lose() -> None:
    assert nll_from_logits([[0.0, -900.0], [1.0, 0.0]], [1, 0]) == pytest.approx((900.0 + np.log1p(np.exp(-1))) / 2)


@given(seeds, st.floats(-1e3, 1e3))
def test_invariances(draw, seed, size) -> None:
    logits, labels = draw(50, temperature=2.0, seed=seed)
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(50), rng.permutation(4)
    plain = nll_from_logits(logits, labels)
    assert nll_from_logits(logits + size * rng.normal(size=(50, 1)), labels) == pytest.approx(plain, abs=1e-9)
    assert nll_from_logits(logits[rows], labels[rows]) == pytest.approx(plain, abs=1e-12)
    assert nll_from_logits(logits[:, classes], np.argsort(classes)[labels]) == pytest.approx(plain, abs=1e-12)


@given(seeds)
def test_scores_are_proper(seed) -> None:
    """No other probabilities are better, in expectation over labels, than the truth."""
    truth, other = np.random.default_rng(seed).dirichlet(np.ones(3), size=2)
    rows = np.eye(3, dtype=int).argmax(axis=1)
    for score in (nll, brier):
        of_truth, of_other = (score(np.tile(p, (3, 1)), rows, truth) for p in (truth, other))
        assert of_truth <= of_other + 1e-12


def test_masked_options_do_not_count(draw) -> None:
    logits, labels = draw(100, 3)
    wider = np.hstack([logits, np.full((100, 1), 3.0)])
    assert nll_from_logits(wider, labels, answer_set=[True, True, True, False]) == nll_from_logits(logits, labels)


@pytest.mark.parametrize("score", ["nll", "brier"])
def test_the_decomposition_adds_up_and_finds_the_truth(draw, score) -> None:
    honest, labels = draw(4000, seed=3)
    perfect, sharp = (decomposition(honest * factor, labels, score=score) for factor in (1.0, 6.0))
    for parts in (perfect, sharp):
        assert parts.total == pytest.approx(parts.calibration + parts.refinement, abs=1e-12)
    assert abs(perfect.calibration) < 0.003
    assert sharp.calibration > 0.1
    assert sharp.refinement == pytest.approx(perfect.refinement, abs=1e-6)
    assert json.loads(json.dumps(sharp.to_json()))["score"] == score


def test_refinement_is_the_cross_fitted_nll(draw) -> None:
    logits, labels = draw(200, temperature=3.0)
    parts = decomposition(logits, labels, folds=4, seed=2)
    assert parts.refinement == pytest.approx(cross_fitted_nll(logits, labels, 4, 2), abs=1e-12)
    assert parts.total == pytest.approx(nll_from_logits(logits, labels), abs=1e-12)


@pytest.mark.parametrize("score", ["nll", "brier"])
def test_whole_weights_of_a_decomposition_are_repetitions(draw, score) -> None:
    """A fold for each row, and for all repetitions of it."""
    logits, labels = draw(25, 3, temperature=3.0)
    weights = np.random.default_rng(0).integers(0, 4, 25)
    rows = np.repeat(np.arange(25), weights)
    weighted = decomposition(logits, labels, weights, score=score, folds=25)
    distinct = int(np.sum(weights > 0))
    repeated = decomposition(logits[rows], labels[rows], score=score, folds=distinct, groups=rows)
    for part in ("total", "calibration", "refinement"):
        assert getattr(weighted, part) == pytest.approx(getattr(repeated, part), abs=1e-9)
    assert decomposition(logits, labels, score=score).total != pytest.approx(weighted.total, abs=1e-3)
    even = decomposition(logits, labels, np.full(25, 3.0), score=score)
    assert even.refinement == pytest.approx(decomposition(logits, labels, score=score).refinement, abs=1e-12)


def test_refinement_is_the_cross_fitted_nll_with_weights_too(draw) -> None:
    logits, labels = draw(200, temperature=3.0)
    weights = np.random.default_rng(0).random(200) * (np.arange(200) % 4 > 0)
    parts = decomposition(logits, labels, weights, folds=4, seed=2)
    assert parts.refinement == pytest.approx(cross_fitted_nll(logits, labels, 4, 2, weights=weights), abs=1e-12)
    assert parts.total == pytest.approx(nll_from_logits(logits, labels, weights), abs=1e-12)


def test_another_score_is_refused(draw) -> None:
    with pytest.raises(OptionError, match="nll, brier"):
        decomposition(*draw(50), score="accuracy")  # type: ignore[arg-type]
