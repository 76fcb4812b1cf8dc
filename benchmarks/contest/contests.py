"""The contests that there are: what is searched, by whom, and with how many training steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.contest.arena import SHARES, Arena, Search
from benchmarks.contest.searches import IN_OWN_SPACE, SEARCHES, UNDER_BUDGET
from benchmarks.table.tasks import OWN_COUNTS, space_of, spec_of, table_path
from evaluators.tabulated import Table

CLASSES = {"trec": 6, "movie": 2}
TRAININGS = {"trec": 100, "movie": 60}
"""Full trainings that the budget of steps would pay for, by task."""

LEAST = 40
"""Fewer candidates than this say nothing about a search."""

Kind = Literal["front", "own space", "budget"]

SEEDS: Mapping[Kind, int] = {"front": 20, "own space": 20, "budget": 60}
"""Seeds of each search. What is asked of a budget is when one candidate is found: a median that 20 do not settle."""


@dataclass(frozen=True)
class Contest:
    """Searches beside each other.

    Attributes:
        kind: `front` in the wide space, the same in AutoPEFT's `own space`, or the best under a `budget`.
        arena: What is searched.
        searches: By name.
        steps: The budget of training steps.
    """

    kind: Kind
    arena: Arena
    searches: Mapping[str, Search]
    steps: int


def contests(task: str) -> Iterator[Contest]:
    """Yield the contests of a task that its table has candidates for."""
    if not table_path(task).exists():
        return
    wide = arena_of(task)
    yield from _fought("front", wide, SEARCHES, TRAININGS[task])
    for preset in OWN_COUNTS[task]:
        yield from _fought("own space", arena_of(task, preset), IN_OWN_SPACE, TRAININGS[task])
    for share in SHARES:
        yield from _fought("budget", wide.under(share), UNDER_BUDGET, TRAININGS[task])


def arena_of(task: str, origin: str = "wide") -> Arena:
    """Return the arena of one space in a task's table."""
    table = Table.read(table_path(task)).of(origin)
    limit = spec_of(task).budgets.limits(int(table.header.provenance["backbone_parameters"]))["trainable_params"]
    space = space_of(table.header, origin)
    if origin == "wide":
        return Arena(task, table, space, CLASSES[task], int(limit))
    header = replace(table.header, spec={**table.header.spec, "space": {"preset": origin}})
    return Arena(f"{task}, space of {origin}", replace(table, header=header), space, CLASSES[task], int(limit))


def _fought(kind: Kind, arena: Arena, searches: Mapping[str, Search], trainings: int) -> Iterator[Contest]:
    """Yield the contest: for at most half of what the table holds, so that a search has to choose."""
    if len(arena.rows) >= LEAST:
        yield Contest(kind, arena, searches, arena.full * min(trainings, len(arena.rows) // 2))
