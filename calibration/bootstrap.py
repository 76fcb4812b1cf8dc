"""Bootstrap intervals: what another sample of rows might have said.

Resampling is by row, or by group of rows that belong together. Two kinds of interval:

    percentile   for means (accuracy, NLL, Brier) and other statistics without bias: the percentiles of the resampled
                 values
    centred      for statistics with a bias, such as calibration errors: the same percentiles, moved so that the mean
                 of the resamples falls on the estimate. Each resample adds to a calibration error what finite data
                 added before; percentiles alone may leave even the estimate outside. What bias the estimate itself
                 has stays in it: an interval of `ece` says how it varies, that of the debiased error also where the
                 truth is

Both use Hesterberg's (2015) expanded levels Phi(-sqrt(n / (n - 1)) t_{n-1}) in place of the nominal ones: plain
percentiles are too narrow by what separates 1/n from 1/(n - 1) and the normal from Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from calibration.errors import NonFiniteError, OptionError, ShapeError, TooFewRowsError
from calibration.rows import FloatArray, IntArray, checked_choice, checked_count, checked_share, checked_values

Statistic: TypeAlias = Callable[[IntArray], float]
"""A number computed from the rows with these indices (with repetitions)."""

Method: TypeAlias = Literal["percentile", "centred"]
"""Which interval; the module's docstring says when."""

RESAMPLES = 2000
LEAST_SEEDS = 3
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes:
        estimate: On the rows as they are.
        low: Lower end.
        high: Upper end.
        confidence: Nominal coverage of the interval.
        resamples: How many resamples it comes from.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    resamples: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Difference(Interval):
    """A difference, first less second, with its interval."""

    @property
    def distinguishable(self) -> bool:
        """False when the interval covers 0: then say "not distinguishable", not "better"."""
        return not self.low <= 0.0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**asdict(self), "distinguishable": self.distinguishable}


def interval(
    values: npt.ArrayLike | Statistic,
    *,
    rows: int | None = None,
    groups: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """Return the interval of a mean of values, or of any statistic of rows.

    Args:
        values: Either one value for each row, shape (n,), whose mean is meant; or a function of row indices.
        rows: With a function: how many rows there are.
        groups: Optional, shape (n,): whole groups are drawn, not rows.
        resamples: How many, at least 100.
        confidence: Nominal coverage, in (0, 1).
        seed: Of the resampling.
        method: "percentile", or "centred" for statistics with a bias.

    Raises:
        CalibrationError: Empty or non-finite values, fewer than two rows (or groups), options out of range.
    """
    rng = _checked_resampling(resamples, confidence, seed)
    checked_choice(method, "method", get_args(Method))
    if callable(values):
        n = checked_count(0 if rows is None else rows, "rows, which a function needs,", minimum=2)
        simulated, units = _resampled(values, n, groups, resamples, rng)
        return _interval(values(np.arange(n)), simulated, units, confidence, method)
    array = checked_values(values, "values")
    if groups is None:
        simulated, units = _resampled_means(array, resamples, rng), array.size
    else:
        simulated, units = _resampled(lambda i: float(array[i].mean()), array.size, groups, resamples, rng)
    return _interval(float(array.mean()), simulated, units, confidence, method)


def paired_difference(
    first: npt.ArrayLike | Statistic,
    second: npt.ArrayLike | Statistic,
    *,
    rows: int | None = None,
    groups: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    method: Method = "percentile",
) -> Difference:
    """Return first less second on the same rows, both resampled together.

    Args:
        first: Values of shape (n,), or a function of row indices.
        second: The same for what it is compared with.
        rows: With functions: how many rows there are.
        groups: Optional, shape (n,): whole groups are drawn, not rows.
        resamples: How many, at least 100.
        confidence: Nominal coverage, in (0, 1).
        seed: Of the resampling.
        method: "percentile", or "centred" for statistics with a bias.

    Raises:
        CalibrationError: As `interval`, or two of different kind or length.
    """
    gap = _gap(first, second)
    found = interval(
        gap, rows=rows, groups=groups, resamples=resamples, confidence=confidence, seed=seed, method=method
    )
    return Difference(**asdict(found))


def nested_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the mean difference of two candidates over training seeds and the same test rows.

    Seeds are drawn for each candidate on its own, rows for both together: the interval then speaks of another training
    run and of another test set. With few seeds it stays somewhat narrow: three values show little of their spread.

    Args:
        first: Values of shape (seeds, n), at least three seeds.
        second: The same for what it is compared with; the number of its seeds may differ.
        resamples: How many, at least 100.
        confidence: Nominal coverage, in (0, 1).
        seed: Of the resampling.

    Raises:
        CalibrationError: Fewer than three seeds, other rows, non-finite values, options out of range.
    """
    rng = _checked_resampling(resamples, confidence, seed)
    one, other = _by_seed(first, "first"), _by_seed(second, "second")
    if one.shape[1] != other.shape[1]:
        raise ShapeError(f"first has {one.shape[1]} rows, second {other.shape[1]}; the same rows are needed.")
    parts = []
    for index in _indices(one.shape[1], resamples, rng):
        gap = _seed_means(one, len(index), rng) - _seed_means(other, len(index), rng)
        parts.append(np.take_along_axis(gap, index, axis=1).mean(axis=1))
    estimate = float(one.mean() - other.mean())
    return Difference(**asdict(_interval(estimate, np.concatenate(parts), one.shape[1], confidence, "percentile")))


def _checked_resampling(resamples: int, confidence: float, seed: int) -> np.random.Generator:
    checked_count(resamples, "resamples", minimum=100)
    checked_share(confidence, "confidence")
    return np.random.default_rng(checked_count(seed, "seed", minimum=0))


def _gap(first: npt.ArrayLike | Statistic, second: npt.ArrayLike | Statistic) -> npt.ArrayLike | Statistic:
    if callable(first) and callable(second):
        one, other = first, second
        return lambda index: one(index) - other(index)
    if callable(first) or callable(second):
        raise OptionError("one side is a function and the other values; two of a kind are needed.")
    left, right = checked_values(first, "first"), checked_values(second, "second")
    if left.size != right.size:
        raise ShapeError(f"first has {left.size} values, second {right.size}; pairs on the same rows are needed.")
    return left - right


def _by_seed(values: npt.ArrayLike, name: str) -> FloatArray:
    array = checked_values(values, name, dimensions=2)
    if len(array) < LEAST_SEEDS:
        raise TooFewRowsError(f"{name} has {len(array)} seeds; at least {LEAST_SEEDS} are needed to see their spread.")
    return array


def _indices(n: int, resamples: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Yield row indices of shape (some, n) until there are `resamples` of them."""
    if n < 2:
        raise TooFewRowsError(f"there are {n} rows or groups to draw from; at least 2 are needed.")
    size = max(1, _CHUNK // n)
    for start in range(0, resamples, size):
        yield rng.integers(0, n, (min(size, resamples - start), n))


def _resampled_means(array: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    return np.concatenate([array[index].mean(axis=1) for index in _indices(array.size, resamples, rng)])


def _resampled(
    statistic: Statistic, n: int, groups: npt.ArrayLike | None, resamples: int, rng: np.random.Generator
) -> tuple[FloatArray, int]:
    """Return the statistic of each resample, and how many units were drawn from."""
    members = _members(n, groups)
    units = n if members is None else len(members)
    values = []
    for chunk in _indices(units, resamples, rng):
        for index in chunk:
            drawn = index if members is None else np.concatenate([members[i] for i in index])
            values.append(statistic(drawn))
    return np.array(values, dtype=np.float64), units


def _members(n: int, groups: npt.ArrayLike | None) -> list[IntArray] | None:
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ShapeError(f"groups have shape {names.shape}; one per row is needed, shape ({n},).")
    numbers = np.unique(names, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def _seed_means(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return the mean over a draw of seeds, for each resample: shape (resamples, n)."""
    seeds = len(values)
    counts = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=resamples)
    means: FloatArray = (counts / seeds) @ values
    return means


def _interval(estimate: float, simulated: FloatArray, units: int, confidence: float, method: Method) -> Interval:
    from scipy.special import ndtr, stdtrit  # scipy takes longer to import than everything else here

    if not np.all(np.isfinite(simulated)):
        raise NonFiniteError("the statistic is not finite on some resamples; an interval needs numbers.")
    tail = 0.5 * (1.0 - confidence)
    level = float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, tail)))
    shift = estimate - simulated.mean() if method == "centred" else 0.0
    low, high = np.quantile(simulated, [level, 1.0 - level]) + shift
    return Interval(float(estimate), float(low), float(high), float(confidence), simulated.size)
