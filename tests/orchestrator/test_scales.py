"""Scales on which outcomes are learnt: rising, there and back, and not about who failed to learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scales import AsTheyAre, NormalScores, scale_of

VALUES = np.array([0.1, 0.8, 0.82, 0.82, 0.85])

several = st.lists(st.integers(0, 1000), min_size=3, max_size=40, unique=True)


@given(several)
def test_normal_scores_rise_and_come_back(values: list[int]) -> None:
    given = np.array(values, dtype=np.float64) / 1000
    scale = NormalScores(given)
    ordered = np.sort(given)
    scores = scale.of(ordered)
    assert (np.diff(scores) > 0).all()
    assert scale.back(scores) == pytest.approx(ordered)
    assert scores == pytest.approx(-scores[::-1])


def test_equal_values_have_one_score() -> None:
    scores = NormalScores(VALUES).of(VALUES)
    assert scores[2] == scores[3]
    assert len(set(scores.tolist())) == 4


def test_how_far_the_worst_is_behind_does_not_matter() -> None:
    worse = np.array([-1e6, *VALUES[1:]])
    assert NormalScores(worse).of(worse) == pytest.approx(NormalScores(VALUES).of(VALUES))


def test_more_than_was_seen_can_be_hoped_for() -> None:
    scale = NormalScores(VALUES)
    best = scale.of(VALUES)[-1]
    beyond = scale.back(np.array([best, best + 0.1, best + 0.2]))
    assert beyond[0] == pytest.approx(0.85)
    assert beyond[2] - beyond[1] == pytest.approx(beyond[1] - beyond[0])
    assert (beyond[1] - beyond[0]) / 0.1 == pytest.approx((0.85 - 0.8) / (best - scale.of(np.array([0.8]))[0]))
    assert scale.back(np.array([-9.0]))[0] < 0.1


def test_one_objective_is_learnt_by_ranks_and_several_by_distance() -> None:
    assert isinstance(scale_of(VALUES, 1), NormalScores)
    assert isinstance(scale_of(np.array([0.5, 0.5, 0.6]), 1), AsTheyAre)
    assert isinstance(scale_of(VALUES, 2), AsTheyAre)
