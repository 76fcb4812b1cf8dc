"""Choosing from the random search by its validation rows, by accuracy or by what calibration cannot mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_data import plan
from benchmarks.small_data.data import CLASSES, material
from benchmarks.small_data.journal import Journal
from benchmarks.small_data.plan import Run
from calibration.temperature import cross_fitted_nll

Rule = Callable[[NDArray[np.float64], NDArray[np.int64]], float]


def errors(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the share of rows with a wrong top label."""
    return float(np.mean(logits.argmax(axis=1) != labels))


RULES: Mapping[str, Rule] = {"accuracy": errors, "calibrated NLL": cross_fitted_nll}
"""What is smaller is chosen; the first of equals."""


def picks(journal: Journal, task: str) -> Iterator[Run]:
    """Yield what each rule chooses from the whole search, on every seed."""
    runs = searched(journal, task)
    for rule in RULES if runs else ():
        candidate = chosen(journal, runs, rule).candidate
        for seed in range(plan.SEEDS):
            yield Run(task, plan.POOL_SIZE, 0, candidate, seed)


def searched(journal: Journal, task: str) -> list[Run]:
    """Return the runs of a task's search that have logits, the reference first.

    They are found in the journal: what the space draws may change from one version to the next, what was trained not.
    """
    first = Run(task, plan.POOL_SIZE, 0, plan.REFERENCE, 0)
    others = [one for one in journal.rows if one == replace(first, candidate=one.candidate)]
    drawn = [one for one in others if one.candidate not in plan.METHODS.values()]
    return [one for one in (first, *drawn) if journal.has_logits(one)]


def chosen(journal: Journal, runs: Sequence[Run], rule: str) -> Run:
    """Return the run that a rule prefers, by the rows of the validation role."""
    labels = material(runs[0].task).judged["validation"].labels
    return min(runs, key=lambda run: RULES[rule](journal.logits(run, CLASSES[run.task])["validation"], labels))


def one_pass_picks(journal: Journal) -> list[Run]:
    """Return what the search for one pass picks, on every seed; nothing where it is not trained."""
    runs = [run for run in journal.rows if run.seed == 0 and journal.has_logits(run)]
    if len(runs) < plan.ONE_PASS_CANDIDATES:
        return []
    best = chosen(journal, runs, "calibrated NLL")
    return [replace(best, seed=seed) for seed in range(plan.SEEDS)]


def one_pass_runs(way: str, journal: Journal) -> list[Run]:
    """Return the runs that a way to one pass is judged by, as far as they are trained."""
    runs = one_pass_picks(journal) if way == "searched" else sorted(journal.rows, key=lambda run: run.seed)
    return [run for run in runs if journal.has_logits(run)]
