"""Stratified folds, with rows that belong together kept together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.errors import ShapeError, TooFewRowsError
from calibration.rows import BoolArray, IntArray, checked_count


def stratified_folds(labels: IntArray, folds: int = 5, seed: int = 0, groups: npt.ArrayLike | None = None) -> IntArray:
    """Return a fold number, 0..folds-1, for each row.

    Without groups, fold sizes differ by at most one, and so do the counts of each class in the folds. The split
    depends on the labels' order and the seed alone, not on logits: two candidates on the same rows get the same folds.

    Args:
        labels: Class indices of shape (n,).
        folds: How many folds, at least 2.
        seed: Decides the order in which rows are dealt.
        groups: Optional values of shape (n,); rows of one group (paraphrases, say) go to one fold. Classes are
            then balanced as far as the groups allow: large groups first, each to the fold where it disturbs least.

    Raises:
        OptionError: Fewer than two folds.
        TooFewRowsError: Fewer rows, or groups, than folds.
        ShapeError: Another number of groups than of labels.
    """
    checked_count(folds, "folds", minimum=2)
    rng = np.random.default_rng(checked_count(seed, "seed", minimum=0))
    if labels.size < folds:
        raise TooFewRowsError(f"{labels.size} rows cannot fill {folds} folds; use fewer folds or more rows.")
    if groups is None:
        return _dealt(labels, folds, rng)
    return _dealt_by_group(labels, _group_numbers(groups, labels.size, folds), folds, rng)


def check_rows_to_fit(rest: BoolArray) -> None:
    """Raise TooFewRowsError when no row outside a fold has a positive weight.

    Args:
        rest: Shape (n,): True for the rows of positive weight in the other folds.
    """
    if not rest.any():
        raise TooFewRowsError("outside one fold no row has a positive weight; use more folds or other weights.")


def _dealt(labels: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    shuffled = rng.permutation(labels.size)
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    numbers = np.empty(labels.size, dtype=np.int64)
    numbers[order] = np.arange(labels.size) % folds
    return numbers


def _group_numbers(groups: npt.ArrayLike, n: int, folds: int) -> IntArray:
    values = np.asarray(groups)
    if values.shape != (n,):
        raise ShapeError(f"groups have shape {values.shape}; one per row is needed, shape ({n},).")
    names, numbers = np.unique(values, return_inverse=True)
    if names.size < folds:
        raise TooFewRowsError(f"{names.size} groups cannot fill {folds} folds; use fewer folds or more groups.")
    return numbers.astype(np.int64)


def _dealt_by_group(labels: IntArray, groups: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    classes, labels = np.unique(labels, return_inverse=True)
    counts = np.zeros((groups.max() + 1, classes.size))
    np.add.at(counts, (groups, labels), 1.0)
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]
    shares = counts / counts.sum(axis=0)
    filled = np.zeros((folds, classes.size))
    fold_of_group = np.empty(len(counts), dtype=np.int64)
    for group in order:
        # How much the sum of squared shares would grow, less what is the same for all folds: least is least disturbed.
        # An empty fold costs nothing and is the smallest, so none stays empty.
        crowding = filled @ shares[group]
        fold_of_group[group] = np.lexsort((filled.sum(axis=1), crowding))[0]
        filled[fold_of_group[group]] += shares[group]
    result: IntArray = fold_of_group[groups]
    return result
