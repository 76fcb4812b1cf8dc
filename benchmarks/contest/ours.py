"""Paretune's own search: the code that runs studies, on the simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.contest.arena import Arena, Finished, Search
from evaluators.tabulated import Row
from orchestrator.simulation import simulate
from orchestrator.spec import parse
from orchestrator.trial import Phase, Trial
from search_space.candidate import Candidate

FRONT = ({"maximize": "accuracy"}, {"minimize": "trainable_params"})
BEST = ({"maximize": "accuracy"},)
"""Objectives: of a front, and of the best under budgets."""


def product(sampler: str, rungs: int, objectives: Sequence[Mapping[str, str]] = FRONT, **search: Any) -> Search:
    """Return the search of a study with a sampler, early stopping where there is more than one rung."""

    def run(arena: Arena, steps: int, seed: int) -> list[Finished]:
        own = {"sampler": sampler, "seed": seed, "early_stopping": {"rungs": rungs}, **search}
        spec = parse(
            {
                "name": "contest",
                "model": "-",
                "task": "-",
                "synthetic": {},
                "space": dict(arena.table.header.spec["space"]),
                "training": {"steps": arena.full},
                "search": own,
                "objectives": list(objectives),
                "budgets": {"trials": len(arena.rows), "steps": steps, "trainable_params": arena.limit},
            }
        )
        ended = Ended(arena.full, arena.row)
        simulate(spec, arena.space, arena.table, watcher=ended)
        return ended.within(steps)

    return run


class Ended:
    """What a study's search trained to the end, in the order in which it did.

    Args:
        full: Steps of full training: what a failed trial counts.
        row_of: Tells what was measured of a candidate.
    """

    def __init__(self, full: int, row_of: Callable[[Candidate], Row]) -> None:
        self._full, self._row_of = full, row_of
        self._steps: dict[int, int] = {}
        self._found: list[Finished] = []

    def within(self, steps: int) -> list[Finished]:
        """Return what was trained to the end within a budget."""
        return [one for one in self._found if one.at <= steps]

    def phase(self, name: Phase, planned: int) -> None:
        """Take no note: there is one phase."""

    def changed(self, trial: Trial) -> None:
        """Take note of what a trial has done, and of its end."""
        self._steps[trial.number] = self._full if trial.state == "failed" else trial.steps
        if trial.state == "complete":
            self._found.append(Finished(sum(self._steps.values()), self._row_of(trial.candidate)))
