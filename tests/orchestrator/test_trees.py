"""Trees: what those say of a row that left it out."""

from __future__ import annotations

import numpy as np

from orchestrator.trees import fitted, out_of_bag, predicted


def test_out_of_bag_a_row_does_not_tell_of_itself() -> None:
    random = np.random.RandomState(0)
    numbers = random.rand(60, 3).astype(np.float32)
    noise = random.normal(size=60)
    trees = fitted(numbers, noise, 0, 64)
    outside = out_of_bag(trees, numbers, noise)
    assert np.corrcoef(predicted(trees, numbers).mean(axis=0), noise)[0, 1] > 0.6
    assert np.corrcoef(outside, noise)[0, 1] < 0.3


def test_out_of_bag_is_the_mean_of_the_trees_that_left_a_row_out() -> None:
    numbers = np.arange(8, dtype=np.float32)[:, None]
    values = np.arange(8, dtype=np.float64)
    trees = fitted(numbers, values, 3, 5)
    said, outside = predicted(trees, numbers), np.stack([tree.left_out_ for tree in trees])
    found = out_of_bag(trees, numbers, values)
    for row in range(8):
        own = said[outside[:, row], row]
        assert np.isclose(found[row], own.mean() if len(own) else values.mean())
