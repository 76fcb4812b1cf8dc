"""Paretune's own search: the code that runs studies, on the simulated clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest.arena import Arena, Finished, Search
from orchestrator.simulation import simulate
from orchestrator.spec import parse

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
        spent, finished = 0, []
        for trial in simulate(spec, arena.space, arena.table).trials():
            spent += arena.full if trial.state == "failed" else trial.steps
            if trial.state == "complete" and spent <= steps:
                finished.append(Finished(spent, arena.row(trial.candidate)))
        return finished

    return run
