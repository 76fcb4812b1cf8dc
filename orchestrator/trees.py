"""Extremely randomized trees (Geurts et al. 2006) over named numbers, fitted in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
FloatMatrix = NDArray[np.float32]


class Columns:
    """Puts named numbers into the columns of a matrix, in an order that follows from the names alone."""

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        names = sorted(set().union(*rows))
        self._places = {name: at for at, name in enumerate(names)}

    def matrix(self, rows: Sequence[Mapping[str, float]]) -> FloatMatrix:
        """Return the rows, what a row does not have as 0.

        Shape [rows, columns], in the layout that trees are fitted to without a copy.
        """
        found = np.zeros((len(rows), len(self._places)), dtype=np.float32)
        for at, row in enumerate(rows):
            found[at, [self._places[name] for name in row]] = list(row.values())
        return found


def measured(values: Sequence[float | None]) -> tuple[list[int], FloatArray]:
    """Return where values are known, and these, shape [known]."""
    places = [at for at, one in enumerate(values) if one is not None]
    return places, np.array([values[at] for at in places], dtype=np.float64)


def fitted(numbers: FloatMatrix, values: FloatArray, seed: int, count: int) -> list[Any]:
    """Return extremely randomized trees, each fitted to a bootstrap sample.

    What scikit-learn's forest does, without its checks of every tree's parameters and input: they take most of the time
    of a forest as small as this one.

    Args:
        numbers: Shape [rows, columns].
        values: What is predicted, shape [rows].
        seed: Of samples and trees.
        count: How many trees.
    """
    import sklearn
    from sklearn.tree import ExtraTreeRegressor

    random = np.random.RandomState(seed)
    trees = []
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        for _ in range(count):
            weights = np.bincount(random.randint(0, len(values), len(values)), minlength=len(values)).astype(np.float64)
            tree = ExtraTreeRegressor(min_samples_leaf=2, max_features=0.5, random_state=random.randint(2**31 - 1))
            trees.append(tree.fit(numbers, values.reshape(-1, 1), sample_weight=weights, check_input=False))
    return trees


def predicted(trees: Sequence[Any], numbers: FloatMatrix) -> FloatArray:
    """Return what each tree says of each row, shape [trees, rows]."""
    return np.stack([np.asarray(tree.tree_.predict(numbers)).reshape(-1) for tree in trees])


def moments(trees: Sequence[Any], numbers: FloatMatrix) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of what each row may come to, shape [rows] each.

    The variance is that between the trees and that within their leaves (law of total variance; Hutter et al. 2014,
    section 4.3.2).
    """
    means = predicted(trees, numbers)
    within = np.stack([tree.tree_.impurity[tree.tree_.apply(numbers)] for tree in trees])
    return means.mean(axis=0), np.sqrt(means.var(axis=0) + within.mean(axis=0))
