"""Extremely randomized trees (Geurts et al. 2006) over named numbers, fitted in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.dominance import FloatArray

FloatMatrix = NDArray[np.float32]


_PLACES: dict[str, int] = {}
"""A number for each name that was ever seen."""


class Numbers:
    """Named numbers, ready to be put into a matrix again and again."""

    def __init__(self, named: Mapping[str, float]) -> None:
        self.places = np.array([_PLACES.setdefault(name, len(_PLACES)) for name in named], dtype=np.int64)
        self.values = np.fromiter(named.values(), dtype=np.float32, count=len(named))


class Columns:
    """Puts named numbers into the columns of a matrix, in an order that follows from the names alone."""

    def __init__(self, rows: Sequence[Numbers]) -> None:
        seen = np.zeros(len(_PLACES), dtype=np.bool_)
        seen[np.concatenate([row.places for row in rows])] = True
        self._columns = np.zeros(len(_PLACES), dtype=np.int64)
        in_order = [place for _, place in sorted((name, place) for name, place in _PLACES.items() if seen[place])]
        self._columns[in_order] = np.arange(len(in_order))
        self._count = len(in_order)

    def matrix(self, rows: Sequence[Numbers]) -> FloatMatrix:
        """Return the rows, what a row does not have as 0.

        Shape [rows, columns], in the layout that trees are fitted to without a copy.
        """
        found = np.zeros((len(rows), self._count), dtype=np.float32)
        if len(rows):
            lines = np.repeat(np.arange(len(rows)), [len(row.places) for row in rows])
            columns = self._columns[np.concatenate([row.places for row in rows])]
            found[lines, columns] = np.concatenate([row.values for row in rows])
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

    random, own = np.random.RandomState(seed), np.random.RandomState()
    trees = []
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        for _ in range(count):
            weights = np.bincount(random.randint(0, len(values), len(values)), minlength=len(values)).astype(np.float64)
            own.seed(random.randint(2**31 - 1))  # faster than a new one, which first asks for entropy
            tree = ExtraTreeRegressor(min_samples_leaf=2, max_features=0.5, random_state=own)
            trees.append(tree.fit(numbers, values.reshape(-1, 1), sample_weight=weights, check_input=False))
            tree.left_out_ = weights == 0
    return trees


def out_of_bag(trees: Sequence[Any], numbers: FloatMatrix, values: FloatArray) -> FloatArray:
    """Return what the trees say of the rows that they were fitted to, each by those that had left it out, shape [rows].

    A row that none left out gets the mean of all values.

    Args:
        trees: As `fitted` returned them.
        numbers: Shape [rows, columns].
        values: Shape [rows].
    """
    outside = np.stack([tree.left_out_ for tree in trees])
    total, count = (predicted(trees, numbers) * outside).sum(axis=0), outside.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), values.mean())


def predicted(trees: Sequence[Any], numbers: FloatMatrix) -> FloatArray:
    """Return what each tree says of each row, shape [trees, rows]."""
    return np.stack([np.asarray(tree.tree_.predict(numbers)).reshape(-1) for tree in trees])


def moments(trees: Sequence[Any], numbers: FloatMatrix) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of what each row may come to, shape [rows] each.

    The variance is that between the trees and that within their leaves (law of total variance; Hutter et al. 2014,
    section 4.3.2).
    """
    leaves = [tree.tree_.apply(numbers) for tree in trees]
    means = np.stack([tree.tree_.value[at, 0, 0] for tree, at in zip(trees, leaves, strict=True)])
    within = np.stack([tree.tree_.impurity[at] for tree, at in zip(trees, leaves, strict=True)])
    variances = means.var(axis=0) + within.mean(axis=0)  # rounding makes that of equal values less than 0
    return means.mean(axis=0), np.sqrt(np.maximum(variances, 0.0))
