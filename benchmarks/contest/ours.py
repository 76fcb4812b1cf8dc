"""Paretune's own search: the code that runs studies, on the simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.contest.arena import Arena, Finished, Search
from evaluators.tabulated import Row
from orchestrator.simulation import simulate
from orchestrator.spec import parse
from orchestrator.storage import Trial
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
        return list(finished(simulate(spec, arena.space, arena.table).trials(), arena.full, steps, arena.row))

    return run


def finished(trials: Sequence[Trial], full: int, steps: int, row_of: Callable[[Candidate], Row]) -> Iterator[Finished]:
    """Yield what a study trained to the end within a budget.

    Args:
        trials: All of the study's search, in order.
        full: Steps of full training: what a failed trial counts.
        steps: The budget.
        row_of: Tells what was measured of a candidate.
    """
    spent = 0
    for trial in trials:
        spent += full if trial.state == "failed" else trial.steps
        if trial.state == "complete" and spent <= steps:
            yield Finished(spent, row_of(trial.candidate))
