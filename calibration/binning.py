"""Bins over predicted probabilities.

Bins are made from probabilities and weights alone, never from what happened; so the same bins serve the data and any
number of simulated outcomes on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.outcomes import Outcomes
from calibration.rows import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Bins:
    """Non-empty bins, in ascending order of probability.

    Attributes:
        order: Rows sorted by probability, shape (n,).
        starts: Where each bin begins in that order, shape (b,).
        share: Each bin's part of the total weight, sums to one, shape (b,).
        probability: Mean predicted probability in each bin, shape (b,).
        concentration: sum w^2 / (sum w)^2 in each bin, which is 1 / count when weights are equal, shape (b,).
        row_share: The rows' weights in sorted order, shape (n,).
    """

    order: IntArray
    starts: IntArray
    share: FloatArray
    probability: FloatArray
    concentration: FloatArray
    row_share: FloatArray

    @property
    def counts(self) -> IntArray:
        """Rows in each bin, shape (b,)."""
        return np.diff(np.append(self.starts, self.order.size))

    def frequency(self, happened: BoolArray) -> FloatArray:
        """Return how often the event happened in each bin: (..., n) in the rows' order gives (..., b)."""
        return self.frequency_sorted(happened[..., self.order])

    def frequency_sorted(self, happened: BoolArray) -> FloatArray:
        """Return the same for outcomes that are already in the bins' order."""
        sums = np.add.reduceat(happened * self.row_share, self.starts, axis=-1)
        frequency: FloatArray = sums / self.share
        return np.minimum(frequency, 1.0)


def equal_width(outcomes: Outcomes, bins: int) -> Bins:
    """Return the non-empty of `bins` bins of equal width on [0, 1], each open on the left and closed on the right.

    Bin j holds (j / bins, (j + 1) / bins]; 0 belongs to the first (Guo et al. 2017).
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    return _from_index(outcomes, np.searchsorted(edges[1:-1], outcomes.probability, side="left"))


def equal_mass(outcomes: Outcomes, bins: int, *, least_rows: int = 1) -> Bins:
    """Return at most `bins` bins of nearly equal weight; rows of equal probability are never parted.

    A block of equal probabilities goes to the bin where the middle of its weight falls. Without ties and weights,
    counts differ by at most one.

    Args:
        outcomes: The events.
        bins: How many bins.
        least_rows: A bin with fewer rows is joined to the next higher one (the highest to the next lower).
    """
    inverse = np.unique(outcomes.probability, return_inverse=True)[1]
    mass = np.bincount(inverse, weights=outcomes.share)
    middle = np.cumsum(mass) - 0.5 * mass
    # The small number decides sums that rounding has put a hair below a bin's edge.
    block_bin = np.minimum(np.floor(middle * bins + 1e-9), bins - 1).astype(np.int64)
    index = block_bin[inverse]
    return _from_index(outcomes, _joined(index, least_rows) if least_rows > 1 else index)


def _joined(index: IntArray, least_rows: int) -> IntArray:
    """Return bin numbers in which every bin has at least `least_rows` rows (or there is one bin)."""
    new, current, filled = [], 0, 0
    for count in np.bincount(index):
        if filled >= least_rows:
            current, filled = current + 1, 0
        new.append(current)
        filled += count
    if current and filled < least_rows:
        new = [min(number, current - 1) for number in new]
    return np.array(new)[index]


def _from_index(outcomes: Outcomes, index: npt.NDArray[np.intp]) -> Bins:
    # Bins follow probability, so sorting by probability groups them, and the order of the rows does not matter.
    order = np.lexsort((outcomes.share, outcomes.probability))
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    row_share = outcomes.share[order]
    share = np.add.reduceat(row_share, starts)
    part = row_share / np.repeat(share, np.diff(np.append(starts, order.size)))
    return Bins(
        order=order,
        starts=starts,
        share=share,
        probability=np.add.reduceat(part * outcomes.probability[order], starts),
        concentration=np.add.reduceat(np.square(part), starts),
        row_share=row_share,
    )
