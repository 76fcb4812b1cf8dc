"""The scorecard: every number about one set of probabilities, each calibration error with its floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration import ece as errors_of
from calibration import selective
from calibration.binning import Bins, equal_width
from calibration.bootstrap import Interval, Method, Statistic, interval
from calibration.floor import Definition, EceFloor, ece_floor
from calibration.outcomes import Outcomes, top_label
from calibration.proper_scores import squared_errors, surprises
from calibration.rows import FloatArray, IntArray

COVERAGES = (0.5, 0.8, 0.95)
"""Where selective accuracy is reported."""


@dataclass(frozen=True)
class Settings:
    """How numbers are computed.

    Attributes:
        bins: Of the binned errors.
        draws: Of the perfect-model floors.
        resamples: Of the bootstrap.
        confidence: Of the intervals.
        alpha: Miss rate that conformal sets promise.
        folds: Of the cross-fitting.
        seed: Of everything random.
    """

    bins: int = 15
    draws: int = 1000
    resamples: int = 2000
    confidence: float = 0.95
    alpha: float = 0.1
    folds: int = 5
    seed: int = 0


DEFAULT_SETTINGS = Settings()


@dataclass(frozen=True)
class Scorecard:
    """Every number about one set of probabilities; each is defined in the module of its name.

    Attributes:
        accuracy: Of the top label.
        nll: Nats.
        brier: Sum over classes.
        ece: Top label, equal width.
        ece_equal_mass: Top label, equal weight.
        ece_classwise: Mean over classes.
        ece_binary: Of P(y = 1); None with more than two classes.
        mce: Largest gap of a bin.
        debiased_squared_error: Signed.
        smooth_ece: Without bins.
        aurc: Area under the risk-coverage curve.
        excess_aurc: The same, less the least possible.
        selective_accuracy: Accuracy on the surest part of the rows, by that part.
        intervals: Of "accuracy", "nll" (unless infinite), "brier", "ece" (its variation, not its bias) and
            "debiased_squared_error".
        floors: Each calibration error beside that of a perfect model.
    """

    accuracy: float
    nll: float
    brier: float
    ece: float
    ece_equal_mass: float
    ece_classwise: float
    ece_binary: float | None
    mce: float
    debiased_squared_error: float
    smooth_ece: float
    aurc: float
    excess_aurc: float
    selective_accuracy: Mapping[float, float]
    intervals: Mapping[str, Interval]
    floors: Mapping[Definition, EceFloor]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; an infinite number is null."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def scorecard(
    logs: FloatArray,
    targets: IntArray,
    settings: Settings = DEFAULT_SETTINGS,
    groups: npt.ArrayLike | None = None,
) -> Scorecard:
    """Return every number about log-probabilities of shape (n, k), which were checked.

    With groups, intervals resample whole groups; floors take rows for independent all the same.
    """
    p = np.exp(logs)
    floors = _floors(p, targets, settings)
    statistics = row_statistics(logs, targets, settings.bins)
    every_row = np.arange(targets.size)
    return Scorecard(
        **{name: statistic(every_row) for name, statistic in statistics.items()},
        ece_equal_mass=floors["equal_mass"].ece,
        ece_classwise=floors["classwise"].ece,
        ece_binary=floors["binary"].ece if "binary" in floors else None,
        mce=floors["maximum"].ece,
        smooth_ece=errors_of.smooth_ece(p, targets),
        aurc=selective.aurc(p, targets),
        excess_aurc=selective.excess_aurc(p, targets),
        selective_accuracy={part: selective.selective_accuracy(p, targets, part) for part in COVERAGES},
        intervals=_intervals(statistics, targets.size, groups, settings),
        floors=floors,
    )


def row_statistics(logs: FloatArray, targets: IntArray, bins: int) -> dict[str, Statistic]:
    """Return accuracy, NLL, Brier score, ECE and debiased error as functions of row indices, for resampling.

    Bins are those of all rows: a resample moves rows in and out of bins, and not the bins.
    """
    outcomes = top_label(np.exp(logs), targets)
    return {
        "accuracy": _mean(outcomes.happened.astype(np.float64)),
        "nll": _mean(surprises(logs, targets)),
        "brier": _mean(squared_errors(logs, targets)),
        "ece": _binned(outcomes, equal_width(outcomes, bins), _absolute),
        "debiased_squared_error": _binned(outcomes, errors_of.bins_of_two(outcomes, bins), _unbiased_square),
    }


def interval_method(name: str) -> Method:
    """Return which interval suits a statistic: calibration errors have a bias."""
    return "centred" if name in ("ece", "debiased_squared_error") else "percentile"


def plain(value: Any) -> Any:
    """Return a value as JSON-able objects; an infinite number becomes None, as JSON has none."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _mean(values: FloatArray) -> Statistic:
    return lambda rows: float(values[rows].mean())


def _binned(outcomes: Outcomes, table: Bins, gap: Callable[..., FloatArray]) -> Statistic:
    """Return sum_b share_b gap(mean gap, accuracy, count) over fixed bins, for rows of equal weight."""
    number = np.empty(outcomes.happened.size, dtype=np.int64)
    number[table.order] = np.repeat(np.arange(table.starts.size), table.counts)
    right = outcomes.happened.astype(np.float64)
    residual = right - outcomes.probability

    def statistic(rows: IntArray) -> float:
        chosen = number[rows]
        count = np.bincount(chosen, minlength=table.starts.size)
        filled = np.maximum(count, 1)
        mean_gap, accuracy = (np.bincount(chosen, values[rows], count.size) / filled for values in (residual, right))
        return float(gap(mean_gap, accuracy, filled) @ count) / rows.size

    return statistic


def _absolute(mean_gap: FloatArray, _accuracy: FloatArray, _count: IntArray) -> FloatArray:
    return np.abs(mean_gap)


def _unbiased_square(mean_gap: FloatArray, accuracy: FloatArray, count: IntArray) -> FloatArray:
    return np.square(mean_gap) - accuracy * (1.0 - accuracy) / np.maximum(count - 1, 1)


def _intervals(
    statistics: Mapping[str, Statistic], n: int, groups: npt.ArrayLike | None, settings: Settings
) -> dict[str, Interval]:
    return {
        name: interval(
            one,
            rows=n,
            groups=groups,
            resamples=settings.resamples,
            confidence=settings.confidence,
            seed=settings.seed,
            method=interval_method(name),
        )
        for name, one in statistics.items()
        if math.isfinite(one(np.arange(n)))
    }


def _floors(p: FloatArray, targets: IntArray, settings: Settings) -> dict[Definition, EceFloor]:
    wanted: list[Definition] = ["top_label", "equal_mass", "classwise", "maximum", "debiased", "smooth"]
    if p.shape[1] == 2:
        wanted.append("binary")
    asked = {"bins": settings.bins, "draws": settings.draws, "seed": settings.seed}
    return {definition: ece_floor(p, targets, **asked, definition=definition) for definition in wanted}
