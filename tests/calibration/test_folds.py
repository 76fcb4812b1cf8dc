"""Folds: balanced, deterministic, and groups kept together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import ShapeError
from calibration.folds import stratified_folds


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(7, 90))
def test_folds_are_balanced_in_rows_and_classes(seed, folds, n) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, n)
    fold = stratified_folds(labels, folds, seed)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for k in np.unique(labels):
        assert np.ptp(np.bincount(fold[labels == k], minlength=folds)) <= 1


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(6, 30))
def test_groups_stay_together_and_no_fold_is_empty(seed, folds, number_of_groups) -> None:
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(number_of_groups), rng.integers(0, number_of_groups, 60)])
    fold = stratified_folds(rng.integers(0, 3, groups.size), folds, seed, groups)
    assert set(fold) == set(range(folds))
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))


def test_groups_are_spread_by_class() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 3)
    labels = np.repeat(rng.integers(0, 2, 200), 3)
    fold = stratified_folds(labels, 5, 0, groups)
    shares = [labels[fold == number].mean() for number in range(5)]
    assert np.ptp(shares) < 0.03


def test_the_seed_decides_and_nothing_else() -> None:
    labels = np.arange(40) % 3
    assert np.array_equal(stratified_folds(labels, 5, 1), stratified_folds(labels, 5, 1))
    assert not np.array_equal(stratified_folds(labels, 5, 1), stratified_folds(labels, 5, 2))


def test_names_may_be_groups_and_their_number_is_checked() -> None:
    labels = np.arange(6) % 2
    assert len(stratified_folds(labels, 2, 0, ["a", "a", "b", "b", "c", "c"])) == 6
    with pytest.raises(ShapeError, match="groups"):
        stratified_folds(labels, 2, 0, ["a", "b"])
