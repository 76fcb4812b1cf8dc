"""The contest on real training as tables, a picture and data: every task and every budget that its journal has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.contest.arena import Arena, Finished
from benchmarks.contest.contests import CLASSES
from benchmarks.contest.journal import Entry, read
from benchmarks.contest.measures import Course, course_of, reached, spread
from benchmarks.contest.real import SEARCHES, journal_path, rows_path
from benchmarks.contest.report import OF_AUTOPEFT, PICTURES, draw, numbers_of, reached_table, table
from benchmarks.report import write
from benchmarks.table.tasks import COUNTS, spec_of
from evaluators.tabulated import Table
from orchestrator.preparation import prepare

SECTION = "contest_real"
ABSOLUTE = (1.0, 1.0)
"""Hypervolumes are told as they are: nobody knows all of a space."""
_OURS, _RANDOM, _RIVAL = SEARCHES
_LEGEND = (
    "Hypervolume: of the front that validation chose, with its 95 % interval over seeds, which one seed does not have; "
    "accuracy from guessing to 1, trainable parameters by logarithm up to 5 % of the backbone. Best: test accuracy of "
    "what validation picks under a share of it. Regret: how far these picks are behind those from all that any search "
    "here trained to the end, on test, mean of the limits."
)


def report() -> None:
    """Write `results/contest_real.json`, the section of the results page, and a picture for each budget of a task."""
    held = read(journal_path())
    parts = [(task, steps) for task in COUNTS for steps in budgets(task, held)]
    if not parts:
        print("no search has been run")
        return
    results, texts = [], []
    for task, steps in parts:
        entries = [one for one in held if one.task == _named(task)]
        data, text = told(arena_of(task, entries), entries, steps, PICTURES / f"contest-real-{task}-{steps}.png")
        results.append({"task": task, **data})
        texts.append(text)
    head = "Searches that train what they choose, drawn from the spaces themselves and not from a table."
    write(SECTION, {"contests": results}, "\n\n".join(["## Contest on real training", head, *texts]), "contest.real")


def budgets(task: str, held: Sequence[Entry]) -> list[int]:
    """Return the budgets of steps that a journal has of a task."""
    return sorted({one.steps for one in held if one.task == _named(task)})


def arena_of(task: str, entries: Sequence[Entry]) -> Arena:
    """Return what searches of a task trained to the end, all of them together."""
    with TemporaryDirectory() as folder:
        prepared = prepare(spec_of(task), Path(folder))
    limit = int(prepared.limits["trainable_params"])
    return Arena(_named(task), trained(Table.read(rows_path(task)), entries), prepared.space, CLASSES[task], limit)


def trained(kept: Table, entries: Sequence[Entry]) -> Table:
    """Return the part of a table that searches trained to the end."""
    keys = {(identity, 0) for one in entries for _, identity in one.found}
    return Table(kept.header, {key: row for key, row in kept.rows.items() if key in keys})


def told(arena: Arena, entries: Sequence[Entry], steps: int, picture: Path) -> tuple[dict[str, Any], str]:
    """Return the data and the text of one budget, and draw its picture.

    Args:
        arena: What all searches trained to the end.
        entries: What searches found, at whatever budgets.
        steps: The budget.
        picture: Where it is drawn.
    """
    of_budget = [one for one in entries if one.steps == steps]
    names = [name for name in SEARCHES if any(one.search == name for one in of_budget)]
    found = {name: [one.finished(arena) for one in of_budget if one.search == name] for name in names}
    courses = {name: [course_of(arena, one, steps, ABSOLUTE) for one in several] for name, several in found.items()}
    draw(courses, steps, picture, arena.name, "hypervolume")
    soon = _soon(arena, found, courses, steps)
    searches = {name: {**numbers_of(one), "volumes": _bands(one)} for name, one in courses.items()}
    lines = [
        f"### {arena.name}: {steps:,} training steps ({steps // arena.full} full trainings)",
        f"![hypervolume over steps](results/{picture.name})",
        table(courses),
        f"{_LEGEND} {OF_AUTOPEFT}" if _RIVAL in courses else _LEGEND,
        *([reached_table(_OURS, soon)] if soon else []),
    ]
    return {"steps": steps, "searches": searches, "reached": soon}, "\n\n".join(lines)


def _soon(
    arena: Arena, found: Mapping[str, list[list[Finished]]], courses: Mapping[str, list[Course]], steps: int
) -> dict[str, Any]:
    others = {name: one for name, one in courses.items() if name != _OURS}
    if _OURS not in found or not others:
        return {}
    return {name: asdict(one) for name, one in reached(arena, found[_OURS], others, steps, ABSOLUTE[0]).items()}


def _bands(courses: Sequence[Course]) -> list[Any]:
    """Return the hypervolume at each checkpoint over seeds, with its interval."""
    return [spread([float(value) for value in column]) for column in np.array([one.volumes for one in courses]).T]


def _named(task: str) -> str:
    return f"{task}, trained"
