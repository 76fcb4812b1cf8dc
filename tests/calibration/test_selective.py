"""Selective prediction against a naive computation, with ties shared."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import aurc, excess_aurc, risk_coverage, selective_accuracy
from calibration.errors import OptionError

seeds = st.integers(0, 2**32 - 1)


def naive_aurc(confidence, wrong) -> float:
    order = np.argsort(-confidence, kind="stable")
    return float(np.mean(np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)))


@given(seeds)
def test_without_ties_it_is_the_naive_area(probabilities, seed) -> None:
    p, labels = probabilities(70, seed=seed)
    wrong = p.argmax(axis=1) != labels
    assert aurc(p, labels) == pytest.approx(naive_aurc(p.max(axis=1), wrong), abs=1e-12)
    best = naive_aurc((~wrong).astype(float), wrong)
    assert excess_aurc(p, labels) == pytest.approx(aurc(p, labels) - best, abs=1e-12)
    assert excess_aurc(p, labels) >= -1e-12


def test_ties_are_the_mean_over_their_orders() -> None:
    top = np.array([0.9, 0.7, 0.7, 0.7, 0.6])
    p, labels = np.column_stack([top, 1 - top]), np.array([0, 1, 0, 0, 1])
    wrong = labels != 0
    orders = [naive_aurc(np.array([0.9, *tied, 0.6]), wrong) for tied in itertools.permutations((0.72, 0.71, 0.7))]
    assert aurc(p, labels) == pytest.approx(np.mean(orders), abs=1e-12)
    rows = np.array([3, 1, 4, 2, 0])
    assert aurc(p[rows], labels[rows]) == pytest.approx(aurc(p, labels), abs=1e-15)


def test_the_curve_ends_at_the_error_rate(probabilities) -> None:
    p, labels = probabilities(200)
    curve = risk_coverage(p, labels)
    assert curve.coverage[-1] == pytest.approx(1.0)
    assert curve.risk[-1] == pytest.approx(np.mean(p.argmax(axis=1) != labels))
    assert np.all(np.diff(curve.coverage) > 0.0)


def test_selective_accuracy_by_hand() -> None:
    top = np.array([0.9, 0.8, 0.7, 0.6])
    p, labels = np.column_stack([top, 1 - top]), [0, 0, 1, 0]
    assert selective_accuracy(p, labels, 0.5) == pytest.approx(1.0)
    assert selective_accuracy(p, labels, 0.75) == pytest.approx(2 / 3)
    assert selective_accuracy(p, labels, 0.625) == pytest.approx(2 / 2.5)  # half of the third row
    assert selective_accuracy(p, labels, 1.0) == pytest.approx(0.75)


@given(seeds)
def test_whole_weights_are_repetitions(probabilities, seed) -> None:
    p, labels = probabilities(40, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 3, 40)
    weights[0] = 1
    repeated = np.repeat(p, weights, axis=0), np.repeat(labels, weights)
    for coverage in (0.3, 0.8, 1.0):
        assert selective_accuracy(p, labels, coverage, weights=weights) == pytest.approx(
            selective_accuracy(*repeated, coverage), abs=1e-9
        )


@pytest.mark.parametrize("coverage", [0.0, 1.1, -0.5, float("nan"), True])
def test_a_coverage_is_a_share(probabilities, coverage) -> None:
    with pytest.raises(OptionError, match="coverage"):
        selective_accuracy(*probabilities(20), coverage)
