"""Calibration errors: how far predicted probabilities are from how often things happen.

    ece                      top label, bins of equal width            Guo et al. 2017; what papers call ECE
    ece_equal_mass           top label, bins of equal weight           Nguyen & O'Connor 2015
    ece_classwise            mean over classes of "y = k"              Kull et al. 2019
    ece_binary               P(y = 1), bins of equal width             Naeini et al. 2015
    mce                      top label, the worst bin                  Guo et al. 2017
    debiased_squared_error   top label, equal weight, signed           Broecker 2012; Kumar et al. 2019
    smooth_ece               top label, a kernel instead of bins       Blasiok & Nakkiran 2023

All but the last two are biased upwards: a perfect model of four classes scores 0.11 on 100 rows. Never report one
without `calibration.floor.ece_floor` beside it, and never select on one.

In all of them: probabilities of shape (n, k) must be finite, in [0, 1] and sum to one by row; of several largest
ones the first class is the top label; bins are open on the left and closed on the right; weights count in
proportion, rows of weight zero not at all; nothing depends on the order of rows. Errors are those of
`calibration.rows`, and TooFewRowsError where named.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from calibration.binning import Bins, equal_mass, equal_width
from calibration.errors import TooFewRowsError
from calibration.outcomes import Outcomes, binary, labelled_probabilities, one_class, top_label
from calibration.rows import FloatArray, checked_count

SMOOTH_CELLS = 1 << 14
"""Cells of [0, 1] on which `smooth_ece` computes its convolution."""


def ece(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, weights: npt.ArrayLike | None = None
) -> float:
    """Return the expected calibration error: sum_b share_b |accuracy_b - confidence_b|.

    Top label, `bins` bins of equal width, (j / bins, (j + 1) / bins]. In [0, 1].

    Args:
        probabilities: Shape (n, k).
        labels: Class indices of shape (n,).
        bins: How many bins, at least 1.
        weights: Optional, shape (n,).
    """
    outcomes = top_label(probabilities, labels, weights)
    return float(mean_gap(*_told(equal_width(outcomes, checked_count(bins, "bins", minimum=1)), outcomes)))


def ece_equal_mass(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, weights: npt.ArrayLike | None = None
) -> float:
    """Return the top-label calibration error over bins of equal weight; ties stay together. In [0, 1]."""
    outcomes = top_label(probabilities, labels, weights)
    return float(mean_gap(*_told(equal_mass(outcomes, checked_count(bins, "bins", minimum=1)), outcomes)))


def ece_classwise(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, weights: npt.ArrayLike | None = None
) -> float:
    """Return the mean over classes of the equal-width calibration error of "y = k". In [0, 1].

    Classes that no label has count as well: probability given to them is error.
    """
    checked_count(bins, "bins", minimum=1)
    array, targets, share = labelled_probabilities(probabilities, labels, weights)
    events = [one_class(array, targets, share, k) for k in range(array.shape[1])]
    return float(np.mean([mean_gap(*_told(equal_width(outcomes, bins), outcomes)) for outcomes in events]))


def ece_binary(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, weights: npt.ArrayLike | None = None
) -> float:
    """Return the calibration error of P(y = 1) over bins of equal width. In [0, 1].

    Not the top-label error of the same model: that folds the probabilities below one half over.

    Args:
        probabilities: P(y = 1) of shape (n,), or shape (n, 2).
        labels: 0 or 1, shape (n,).
        bins: How many bins, at least 1.
        weights: Optional, shape (n,).
    """
    outcomes = binary(probabilities, labels, weights)
    return float(mean_gap(*_told(equal_width(outcomes, checked_count(bins, "bins", minimum=1)), outcomes)))


def mce(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, weights: npt.ArrayLike | None = None
) -> float:
    """Return the largest |accuracy - confidence| of the non-empty equal-width bins, top label. In [0, 1].

    A bin of one row counts like any other: with few rows this is noise, and the floor says how much.
    """
    outcomes = top_label(probabilities, labels, weights)
    return float(largest_gap(*_told(equal_width(outcomes, checked_count(bins, "bins", minimum=1)), outcomes)))


def debiased_squared_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, weights: npt.ArrayLike | None = None
) -> float:
    """Return the unbiased estimate of the binned squared calibration error; negative about half the time at zero.

    sum_b share_b [(acc - conf)^2 - acc (1 - acc) / (n_b - 1)], top label, bins of equal weight and at least two rows.
    With weights, 1 / n_b is sum w^2 / (sum w)^2. It is signed and not to be clipped, least of all before averaging.

    Raises:
        TooFewRowsError: Fewer than two rows (of positive weight).
    """
    checked_count(bins, "bins", minimum=1)
    outcomes = top_label(probabilities, labels, weights)
    return float(debiased_gap(*_told(bins_of_two(outcomes, bins), outcomes)))


def smooth_ece(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> float:
    """Return the smooth calibration error of the top label. In [0, 1]; continuous in the probabilities.

    The residuals (correct - confidence) are smoothed over confidence by a Gaussian of width s, reflected at 0 and 1,
    and integrated in absolute value. The result falls as s grows; reported is where it equals s, which needs no
    choice of bins or width. Computed on 16,384 cells; the error from that is below 1e-4 of the result when it is
    above 0.005.
    """
    outcomes = top_label(probabilities, labels, weights)
    residual = (outcomes.happened - outcomes.probability) * outcomes.share
    return float(smooth_gap(residual_mass(outcomes.probability, residual, SMOOTH_CELLS))[0])


def mean_gap(bins: Bins, frequency: FloatArray) -> FloatArray:
    """Return sum_b share_b |frequency_b - probability_b|: frequencies (..., b) give (...)."""
    gap: FloatArray = np.abs(frequency - bins.probability) @ bins.share
    return gap


def largest_gap(bins: Bins, frequency: FloatArray) -> FloatArray:
    """Return max_b |frequency_b - probability_b|: frequencies (..., b) give (...)."""
    gap: FloatArray = np.abs(frequency - bins.probability).max(axis=-1)
    return gap


def debiased_gap(bins: Bins, frequency: FloatArray) -> FloatArray:
    """Return the signed, unbiased squared gap: frequencies (..., b) give (...)."""
    noise = frequency * (1.0 - frequency) * (bins.concentration / (1.0 - bins.concentration))
    gap: FloatArray = (np.square(frequency - bins.probability) - noise) @ bins.share
    return gap


def bins_of_two(outcomes: Outcomes, bins: int) -> Bins:
    """Return equal-mass bins with two rows each, which an unbiased estimate needs."""
    if outcomes.probability.size < 2:
        raise TooFewRowsError("the debiased error needs at least two rows, to know the noise in a bin.")
    return equal_mass(outcomes, bins, least_rows=2)


def residual_mass(probability: FloatArray, residual: FloatArray, cells: int) -> FloatArray:
    """Return the residuals of n rows gathered on a grid of [0, 1]: (n,) gives (1, cells).

    Each residual is shared between the two nearest cell centres, in proportion.
    """
    position = np.clip(probability * cells - 0.5, 0.0, cells - 1.0)
    left = np.minimum(position.astype(np.int64), cells - 2)
    right_part = position - left
    mass = np.zeros(cells)
    np.add.at(mass, left, residual * (1.0 - right_part))
    np.add.at(mass, left + 1, residual * right_part)
    return mass[np.newaxis]


def smooth_gap(mass: FloatArray, halvings: int = 40) -> FloatArray:
    """Return, for each row of residual masses (d, cells), the s at which the error smoothed by s equals s.

    Bisection on [0, 1]; the error falls with s, so there is one such s.
    """
    cells = mass.shape[1]
    # Reflecting at both ends makes the smoothing diagonal in cosines: an even extension, a product, and back.
    spectrum = np.fft.rfft(np.concatenate([mass, mass[:, ::-1]], axis=1), axis=1)
    frequency = math.pi * np.arange(cells + 1)
    low, high = np.zeros(len(mass)), np.ones(len(mass))
    for _ in range(halvings):
        width = 0.5 * (low + high)
        kernel = np.exp(-0.5 * np.square(width[:, np.newaxis] * frequency))
        smoothed = np.fft.irfft(spectrum * kernel, n=2 * cells, axis=1)[:, :cells]
        above = np.abs(smoothed).sum(axis=1) > width
        low, high = np.where(above, width, low), np.where(above, high, width)
    return 0.5 * (low + high)


def _told(bins: Bins, outcomes: Outcomes) -> tuple[Bins, FloatArray]:
    return bins, bins.frequency(outcomes.happened)
