"""What a search is worth: hypervolume over training steps, what it picks, and when it gets where others end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest.arena import SHARES, Arena, Finished, trained_by

CHECKPOINTS = 20
_RESAMPLES = 4000


@dataclass(frozen=True)
class Course:
    """One search with one seed, measured.

    Attributes:
        volumes: Share of the table's whole hypervolume on validation, at each checkpoint of the budget.
        test_volume: The same on test at the end, for the front that validation chose.
        picks: Test accuracy of what validation picks under each limit of parameters; chance where nothing fits.
        regrets: How far each pick is behind the best of the table under that limit, on test.
        trained: Candidates trained to the end.
    """

    volumes: NDArray[np.float64]
    test_volume: float
    picks: tuple[float, ...]
    regrets: tuple[float, ...]
    trained: int


def course_of(arena: Arena, finished: Sequence[Finished], steps: int) -> Course:
    """Measure one search.

    Args:
        arena: What was searched.
        finished: What it trained to the end, in order.
        steps: The budget.
    """
    whole, whole_test = arena.volume(arena.rows), arena.volume(arena.rows, "test")
    marks = [steps * (at + 1) // CHECKPOINTS for at in range(CHECKPOINTS)]
    volumes = [arena.volume(trained_by(finished, mark)) / whole for mark in marks]
    rows = [one.row for one in finished]
    picks, regrets = [], []
    for share in SHARES:
        chosen, best = arena.best(rows, share), arena.best(arena.rows, share)
        picks.append(float(arena.values([chosen], "test")[0, 0]) if chosen else 1 / arena.classes)
        regrets.append(float(arena.values([best], "test")[0, 0]) - picks[-1] if best else 0.0)
    test = arena.volume(rows, "test") / whole_test
    return Course(np.array(volumes), test, tuple(picks), tuple(regrets), len(finished))


def steps_to(arena: Arena, finished: Sequence[Finished], share: float, steps: int) -> float:
    """Return the training steps after which a search holds a share of the table's hypervolume; infinite if never."""
    whole, held = arena.volume(arena.rows), []
    for one in finished:
        held.append(one.row)
        if one.at <= steps and arena.volume(held) / whole >= share:
            return float(one.at)
    return float("inf")


def interval(values: Sequence[float], statistic: str = "mean", seed: int = 0) -> tuple[float, float, float]:
    """Return a mean or a median over seeds with its 95 % percentile bootstrap interval."""
    given = np.asarray(values, dtype=np.float64)
    of = np.mean if statistic == "mean" else np.median
    drawn = given[np.random.default_rng(seed).integers(0, len(given), (_RESAMPLES, len(given)))]
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(of(drawn, axis=1), [0.025, 0.975], method="nearest")
    return float(of(given)), float(low), float(high)
