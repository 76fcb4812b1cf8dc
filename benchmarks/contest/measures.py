"""What a search is worth: hypervolume over training steps, what it picks, and when it gets where others end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest.arena import SHARES, Arena, Finished, trained_by

CHECKPOINTS = 20
NEVER = 2.0
"""What a search that never gets somewhere counts, in shares of the budget."""
_RESAMPLES = 4000
Spread = tuple[float, float | None, float | None]
"""A value over seeds and the ends of its interval."""


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


def course_of(
    arena: Arena, finished: Sequence[Finished], steps: int, whole: tuple[float, float] | None = None
) -> Course:
    """Measure one search.

    Args:
        arena: What was searched.
        finished: What it trained to the end, in order.
        steps: The budget.
        whole: Hypervolumes that count as 1, on validation and on test; those of the whole table when None.
    """
    whole, whole_test = whole or (arena.volume(arena.rows), arena.volume(arena.rows, "test"))
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


def steps_to(
    arena: Arena, finished: Sequence[Finished], levels: Sequence[float], steps: int, whole: float | None = None
) -> list[float]:
    """Return the training steps after which a search holds each level of hypervolume; infinite if never.

    Args:
        arena: What was searched.
        finished: What it trained to the end, in order.
        levels: Shares of `whole`.
        steps: The budget.
        whole: As for `course_of`, on validation.
    """
    whole, held = whole or arena.volume(arena.rows), []
    climbed: list[tuple[int, float]] = []
    for one in (one for one in finished if one.at <= steps):
        held.append(one.row)
        climbed.append((one.at, arena.volume(held) / whole))
    return [float(next((at for at, volume in climbed if volume >= level), math.inf)) for level in levels]


@dataclass(frozen=True)
class Reached:
    """How soon a search gets where another one ends.

    Attributes:
        final: Mean over seeds of the other's hypervolume at the end of the budget.
        share: Share of the budget after which the search has that, over its seeds: median, low, high; 2 for never.
        never: Seeds that never have it.
    """

    final: float
    share: Spread
    never: int


def reached(
    arena: Arena,
    several: Sequence[Sequence[Finished]],
    others: Mapping[str, Sequence[Course]],
    steps: int,
    whole: float | None = None,
) -> dict[str, Reached]:
    """Return how soon a search gets where each of the others ends.

    Args:
        arena: What was searched.
        several: What the search trained to the end, for each seed.
        others: The other searches, for each seed.
        steps: The budget.
        whole: As for `course_of`, on validation.
    """
    finals = {name: float(np.mean([one.volumes[-1] for one in courses])) for name, courses in others.items()}
    needed = np.array([steps_to(arena, one, list(finals.values()), steps, whole) for one in several]) / steps
    return {
        name: Reached(final, spread(np.minimum(column, NEVER).tolist(), "median"), int((column > 1).sum()))
        for (name, final), column in zip(finals.items(), needed.T, strict=True)
    }


def spread(values: Sequence[float], statistic: str = "mean") -> Spread:
    """Return a mean or a median over seeds with its 95 % interval; None for the ends of one seed's."""
    return interval(values, statistic) if len(values) > 1 else (float(values[0]), None, None)


def said(three: Spread) -> str:
    """Write a value over seeds with its interval, as people read it; `-` for that of one seed."""
    value, low, high = three
    return f"{value:.3f} " + ("[-]" if low is None or high is None else f"[{low:.3f}, {high:.3f}]")


def said_share(three: Spread) -> str:
    """Write a share of steps with its interval."""
    value, *ends = ("-" if one is None else "never" if one > 1 else f"{one:.2f}" for one in three)
    return f"{value} " + ("[-]" if ends == ["-", "-"] else f"[{', '.join(ends)}]")


def interval(values: Sequence[float], statistic: str = "mean", seed: int = 0) -> tuple[float, float, float]:
    """Return a mean or a median over seeds with its 95 % percentile bootstrap interval."""
    given = np.asarray(values, dtype=np.float64)
    of = np.mean if statistic == "mean" else np.median
    drawn = given[np.random.default_rng(seed).integers(0, len(given), (_RESAMPLES, len(given)))]
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(of(drawn, axis=1), [0.025, 0.975], method="nearest")
    return float(of(given)), float(low), float(high)
