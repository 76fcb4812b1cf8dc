"""Draws the candidates of a table, once: what a file holds is what is trained, however the space grows later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.json_lines import append
from benchmarks.report import environment
from benchmarks.table.baselines import baselines
from benchmarks.table.plan import Stage
from benchmarks.table.tasks import COUNTS, OWN_COUNTS, RUNGS, candidates_path, spec_of, table_path
from evaluators.tabulated import Header, Row, Table
from orchestrator.dominance import non_dominated
from orchestrator.preparation import Prepared, prepare
from orchestrator.spec import StudySpec
from search_space.files import atomic_write
from search_space.knobs import RandomChooser

QUALITY = ("accuracy", "macro_f1", "nll", "calibrated_nll", "ece", "debiased_squared_error", "brier")
_SEEDS = {"trec": 1, "movie": 2}


def draw(task: str) -> int:
    """Draw what a task's file does not have yet and add it. Returns how many candidates that were."""
    before = _held(task)
    if not before:
        _begin(task)
    for row in (*_of_published_spaces(task, before), *_fixed(task, before), *_carried_over(task, before)):
        append(candidates_path(task), _line(row))
    return len(_held(task)) - len(before)


def _held(task: str) -> dict[str, Row]:
    path = candidates_path(task)
    return {row.candidate.sha256: row for row in Table.read(path).main()} if path.exists() else {}


def _begin(task: str) -> None:
    """Draw the wide space, and write it with the header."""
    spec = spec_of(task)
    with TemporaryDirectory() as folder:
        prepared = prepare(spec, Path(folder))
        rows, draws = _feasible(prepared, COUNTS[task], "wide", _SEEDS[task])
    header = _header(spec, prepared, draws, _SEEDS[task]).to_json()
    lines = [json.dumps(header), *map(_line, rows)]
    atomic_write(candidates_path(task), "\n".join(lines) + "\n")


def _of_published_spaces(task: str, held: dict[str, Row]) -> Iterator[Row]:
    for preset, count in OWN_COUNTS[task].items():
        if not any(row.origin == preset for row in held.values()):
            with TemporaryDirectory() as folder:
                prepared = prepare(spec_of(task, preset), Path(folder))
                yield from _feasible(prepared, count, preset, _SEEDS[task])[0]


def _fixed(task: str, held: dict[str, Row]) -> Iterator[Row]:
    """Yield the baselines that are not there; a budget of parameters does not bind them."""
    with TemporaryDirectory() as folder:
        prepared = prepare(spec_of(task), Path(folder))
        for _, candidate in baselines():
            if candidate.sha256 not in held:
                yield Row(candidate, 0, "baseline", prepared.coster.cost(candidate))


def _carried_over(task: str, held: dict[str, Row]) -> Iterator[Row]:
    """Yield the fronts of the other tasks, once their wide spaces are trained."""
    for other in (one for one in COUNTS if one != task):
        if Stage(other, "wide").left():
            continue
        rows = [row for row in Table.read(table_path(other)).of("wide").main() if not row.cause]
        values = [[row.validation[-1][0], row.cost.trainable_params] for row in rows]
        for row, on_front in zip(rows, non_dominated(values, ("maximize", "minimize")), strict=True):
            if on_front and row.candidate.sha256 not in held:
                yield Row(row.candidate, 0, "transfer", row.cost)


def _feasible(prepared: Prepared, count: int, origin: str, seed: int) -> tuple[list[Row], int]:
    """Draw uniformly until there are enough that differ, can be attached and are within budget."""
    chooser, found, draws = RandomChooser(seed), dict[str, Row](), 0
    while len(found) < count:
        candidate, draws = prepared.space.draw(chooser), draws + 1
        if (cost := prepared.affordable(candidate)) is not None:
            found.setdefault(candidate.sha256, Row(candidate, 0, origin, cost))
    rows = list(found.values())
    Random(seed).shuffle(rows)
    return rows, draws


def _header(spec: StudySpec, prepared: Prepared, draws: int, seed: int) -> Header:
    space = spec.to_json()
    space["space"] = {
        "methods": [one.name for one in prepared.space.compositions if len(one.parts) == 1],
        "hybrids": [one.name for one in prepared.space.compositions if len(one.parts) > 1],
    }
    provenance = {
        "draws": draws,
        "seed": seed,
        "backbone_parameters": prepared.coster.parameters,
        "space_size": prepared.space.size,
        "environment": environment(),
        "command": "python -m benchmarks.table draw && python -m benchmarks.table train",
    }
    return Header(space, RUNGS, QUALITY, provenance)


def _line(row: Row) -> str:
    return json.dumps(row.to_json(), separators=(",", ":"))
