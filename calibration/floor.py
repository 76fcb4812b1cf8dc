"""The perfect-model floor: what a calibration error would be if the model were perfectly calibrated.

Binned errors do not reach zero on finite data. Labels are drawn anew from the model's own probabilities, many times;
the errors of these draws are the *floor*. An observed error inside the floor is no evidence of miscalibration
(Vaicenavicius et al. 2019; "consistency resampling", Broecker & Smith 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration import ece as errors_of
from calibration.binning import Bins, equal_mass, equal_width
from calibration.outcomes import Outcomes, binary, labelled_probabilities, top_label
from calibration.rows import BoolArray, FloatArray, IntArray, checked_choice, checked_count, checked_share

Definition: TypeAlias = Literal["top_label", "equal_mass", "classwise", "binary", "maximum", "debiased", "smooth"]
"""Which calibration error: `ece`, `ece_equal_mass`, `ece_classwise`, `ece_binary`, `mce`, and so on."""

Scorer: TypeAlias = Callable[[BoolArray], FloatArray]

_CHUNK = 1 << 20
_SMOOTH_CELLS, _SMOOTH_HALVINGS = 1 << 10, 20
_ROUNDING = 1e-12


@dataclass(frozen=True)
class EceFloor:
    """A calibration error beside that of a perfect model with the same probabilities.

    Attributes:
        ece: The observed error.
        floor_mean: Mean over the draws.
        floor_p95: 95th percentile over the draws.
        p_value: (1 + draws at least as large as observed) / (draws + 1), never 0. Uniform for a perfect model, or
            larger where draws often tie with the data, as they do for "maximum".
        definition: Which error.
    """

    ece: float
    floor_mean: float
    floor_p95: float
    p_value: float
    definition: Definition = "top_label"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class ConsistencyBand:
    """Where each bin of a reliability diagram would lie for a perfect model.

    Attributes:
        probability: Mean predicted probability of each non-empty bin, shape (b,).
        frequency: What was observed, shape (b,).
        low: Lower end of the band, shape (b,).
        high: Upper end of the band, shape (b,).
        share: Each bin's part of the weight, shape (b,).
    """

    probability: FloatArray
    frequency: FloatArray
    low: FloatArray
    high: FloatArray
    share: FloatArray


def ece_floor(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    bins: int = 15,
    draws: int = 1000,
    seed: int = 0,
    *,
    definition: Definition = "top_label",
    weights: npt.ArrayLike | None = None,
) -> EceFloor:
    """Return a calibration error with its perfect-model floor and p-value.

    The probabilities must not have been fitted on these labels: then they are closer to them than a perfect model's
    would be, and the p-value is too large.

    Args:
        probabilities: Shape (n, k); for "binary" also (n,).
        labels: Class indices of shape (n,).
        bins: How many bins (not used by "smooth").
        draws: How many times labels are drawn, at least 1.
        seed: Of the draws. They are made in the order of the probabilities, so the order of rows does not matter.
        definition: Which error.
        weights: Optional, shape (n,).

    Raises:
        CalibrationError: Arrays or options that are not fit to use; see `calibration.rows`.
    """
    checked_count(bins, "bins", minimum=1)
    checked_count(draws, "draws", minimum=1)
    rng = np.random.default_rng(checked_count(seed, "seed", minimum=0))
    checked_choice(definition, "definition", get_args(Definition))
    if definition == "classwise":
        observed, simulated = _classwise(probabilities, labels, weights, bins, draws, rng)
    else:
        outcomes = (binary if definition == "binary" else top_label)(probabilities, labels, weights)
        observed, simulated = _of_events(outcomes, _scorer(definition, outcomes, bins), draws, rng)
    return _floor(observed, simulated, definition)


def consistency_band(
    outcomes: Outcomes, bins: int = 15, draws: int = 1000, seed: int = 0, coverage: float = 0.95
) -> ConsistencyBand:
    """Return the central band of each equal-width bin's frequency under a perfect model (pointwise, not joint).

    Args:
        outcomes: The events, from `calibration.outcomes`.
        bins: How many bins.
        draws: How many times outcomes are drawn.
        seed: Of the draws.
        coverage: The part of the draws inside the band, bin by bin.

    Raises:
        OptionError: An option out of range.
    """
    rng = np.random.default_rng(checked_count(seed, "seed", minimum=0))
    table = equal_width(outcomes, checked_count(bins, "bins", minimum=1))
    tail = 0.5 * (1.0 - checked_share(coverage, "coverage"))
    chances = outcomes.probability[table.order]
    drawn = [table.frequency_sorted(happened) for happened in _draw_events(chances, draws, rng)]
    low, high = np.quantile(np.concatenate(drawn), [tail, 1.0 - tail], axis=0)
    return ConsistencyBand(table.probability, table.frequency(outcomes.happened), low, high, table.share)


def _floor(observed: float, simulated: FloatArray, definition: Definition) -> EceFloor:
    at_least = int(np.sum(simulated >= observed - _ROUNDING))
    return EceFloor(
        ece=observed,
        floor_mean=float(simulated.mean()),
        floor_p95=float(np.quantile(simulated, 0.95)),
        p_value=(1 + at_least) / (simulated.size + 1),
        definition=definition,
    )


def _of_events(outcomes: Outcomes, score: Scorer, draws: int, rng: np.random.Generator) -> tuple[float, FloatArray]:
    order = np.lexsort((outcomes.share, outcomes.probability))
    simulated = [score(happened) for happened in _draw_events(outcomes.probability[order], draws, rng)]
    return float(score(outcomes.happened[order][np.newaxis])[0]), np.concatenate(simulated)


def _draw_events(chances: FloatArray, draws: int, rng: np.random.Generator) -> Iterator[BoolArray]:
    for rows in _chunks(draws, chances.size):
        yield rng.random((rows, chances.size)) < chances


def _chunks(draws: int, width: int) -> Iterator[int]:
    size = max(1, _CHUNK // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _scorer(definition: Definition, outcomes: Outcomes, bins: int) -> Scorer:
    """Return the error as a function of outcomes (d, n) that are sorted by probability and weight."""
    if definition == "smooth":
        return _smooth_scorer(outcomes)
    if definition == "equal_mass":
        return _binned_scorer(equal_mass(outcomes, bins), errors_of.mean_gap)
    if definition == "debiased":
        return _binned_scorer(errors_of.bins_of_two(outcomes, bins), errors_of.debiased_gap)
    gap = errors_of.largest_gap if definition == "maximum" else errors_of.mean_gap
    return _binned_scorer(equal_width(outcomes, bins), gap)


def _binned_scorer(bins: Bins, gap: Callable[[Bins, FloatArray], FloatArray]) -> Scorer:
    return lambda happened: gap(bins, bins.frequency_sorted(happened))


def _smooth_scorer(outcomes: Outcomes) -> Scorer:
    order = np.lexsort((outcomes.share, outcomes.probability))
    probability, share = outcomes.probability[order], outcomes.share[order]

    def score(happened: BoolArray) -> FloatArray:
        masses = [errors_of.residual_mass(probability, (row - probability) * share, _SMOOTH_CELLS) for row in happened]
        return errors_of.smooth_gap(np.concatenate(masses), _SMOOTH_HALVINGS)

    return score


def _classwise(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    bins: int,
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, FloatArray]:
    array, targets, share = labelled_probabilities(probabilities, labels, weights)
    order = np.lexsort((share, *array.T))
    array, targets, share = array[order], targets[order], share[order]
    score = _classwise_scorer(array, share, bins)
    simulated = [score(drawn) for drawn in _draw_labels(array, draws, rng)]
    return float(score(targets[np.newaxis])[0]), np.concatenate(simulated)


def _classwise_scorer(array: FloatArray, share: FloatArray, bins: int) -> Callable[[IntArray], FloatArray]:
    """Return the mean over classes of the error, as a function of labels (d, n); its cost does not grow with k."""
    n, k = array.shape
    cell = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], array, side="left") + bins * np.arange(k)
    promised = np.bincount(cell.ravel(), weights=(array * share[:, np.newaxis]).ravel(), minlength=k * bins)

    def score(labels: IntArray) -> FloatArray:
        cells = cell[np.arange(n), labels] + k * bins * np.arange(len(labels))[:, np.newaxis]
        weights = np.broadcast_to(share, labels.shape).ravel()
        happened = np.bincount(cells.ravel(), weights=weights, minlength=len(labels) * k * bins)
        scores: FloatArray = np.abs(happened.reshape(len(labels), -1) - promised).sum(axis=1) / k
        return scores

    return score


def _draw_labels(array: FloatArray, draws: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Yield labels of shape (some, n) drawn from each row's probabilities."""
    n, k = array.shape
    # All rows' cumulative probabilities in one ascending sequence, row i in [i, i + 1]: one search serves every row.
    row = np.arange(n)
    edges = (np.minimum(np.cumsum(array, axis=1)[:, :-1], 1.0) + row[:, np.newaxis]).ravel()
    for rows in _chunks(draws, array.size):
        drawn = np.searchsorted(edges, rng.random((rows, n)) + row, side="right") - row * (k - 1)
        yield np.minimum(drawn, k - 1)  # u + row may round up to row + 1
