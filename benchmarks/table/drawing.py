"""Draws the candidates of a table, once: what a file holds is what is trained, however the space grows later."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.report import environment
from benchmarks.table.tasks import COUNTS, RUNGS, candidates_path, spec_of
from evaluators.tabulated import Header, Row
from orchestrator.preparation import Prepared, prepare
from orchestrator.spec import StudySpec
from search_space.files import atomic_write
from search_space.knobs import RandomChooser

QUALITY = ("accuracy", "macro_f1", "nll", "calibrated_nll", "ece", "debiased_squared_error", "brier")
_SEEDS = {"trec": 1, "movie": 2}


def draw(task: str) -> int:
    """Draw the candidates of a task and write them. Returns how many draws it took."""
    spec = spec_of(task)
    with TemporaryDirectory() as folder:
        prepared = prepare(spec, Path(folder))
        rows, draws = _feasible(prepared, task)
    lines = [json.dumps(_header(spec, prepared, draws, _SEEDS[task]).to_json()), *(_line(row) for row in rows)]
    atomic_write(candidates_path(task), "\n".join(lines) + "\n")
    return draws


def _feasible(prepared: Prepared, task: str) -> tuple[list[Row], int]:
    """Draw uniformly until there are enough that differ, can be attached and are within budget."""
    chooser, found, draws = RandomChooser(_SEEDS[task]), dict[str, Row](), 0
    while len(found) < COUNTS[task]:
        candidate, draws = prepared.space.draw(chooser), draws + 1
        if (cost := prepared.affordable(candidate)) is not None:
            found.setdefault(candidate.sha256, Row(candidate, 0, "wide", cost))
    rows = list(found.values())
    Random(_SEEDS[task]).shuffle(rows)
    return rows, draws


def _header(spec: StudySpec, prepared: Prepared, draws: int, seed: int) -> Header:
    space = spec.to_json()
    space["space"] = {
        "methods": [name for (name, *more) in prepared.space.compositions if not more],
        "hybrids": [" + ".join(names) for names in prepared.space.compositions if len(names) > 1],
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
