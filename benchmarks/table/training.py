"""Trains what was drawn, one candidate after another, and appends each as a whole line to the table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.json_lines import append
from benchmarks.table.tasks import candidates_path, spec_of, table_path
from evaluators.costing import Coster
from evaluators.measurement import quality
from evaluators.score import Score
from evaluators.tabulated import Header, Row, Table
from evaluators.trained import TrainedEvaluator, TrainedRun
from orchestrator.preparation import prepare
from orchestrator.spec import parse
from search_space.errors import DataError, EvaluationError, ParetuneError, one_of
from search_space.notation import write

_MEASURED = ("checkpoint_bytes", "peak_memory_bytes", "latency_ms", "train_step_ms")

_TRAINS = ("model", "task", "training", "calibration")
"""The sections of a study that decide what a row says. How a study searches may change while a table is trained."""


def train(task: str, rows: Sequence[Row], title: str) -> None:
    """Train some rows of a task, in order, and add each to its table. Several processes may do so beside each other."""
    if not rows:
        return
    with TemporaryDirectory() as folder, _progress() as progress:
        prepared = prepare(spec_of(task), Path(folder))
        header = _begun(task)
        evaluator = TrainedEvaluator(prepared.evaluator)
        bar = progress.add_task(title, total=len(rows))
        for row in rows:
            progress.update(bar, description=f"{title}: {write(row.candidate)[:60]}")
            trained = _trained(evaluator, prepared.coster, header, row)
            append(table_path(task), json.dumps(trained.to_json(), separators=(",", ":")))
            progress.advance(bar)


def _trained(evaluator: TrainedEvaluator, coster: Coster, header: Header, row: Row) -> Row:
    """Return a row with what training gave. Its cost is told anew: it depends on how the study trains."""
    try:
        row = replace(row, cost=coster.cost(row.candidate))
        scores = list(_by_rungs(evaluator.start(row.candidate, row.seed), header.rungs))
    except EvaluationError as error:
        return replace(row, cause=error.cause, message=str(error))
    except ParetuneError as error:
        return replace(row, cause="unsupported", message=str(error))
    return replace(
        row,
        validation=tuple(tuple(score[name] for name in header.quality) for score, _ in scores),
        test=tuple(tuple(seen[name] for name in header.quality) for _, seen in scores),
        measured={name: scores[-1][0][name] for name in _MEASURED},
    )


def _by_rungs(run: TrainedRun, rungs: tuple[int, ...]) -> Iterator[tuple[Score, dict[str, float]]]:
    """Yield the score and the quality on test at each rung. The test split decides nothing here: it is only kept."""
    tokens = run.evaluator.folder.read("test")
    for step in rungs:
        score = run.advance(step)
        yield score, quality(run.predict("test", tokens), tokens.labels, run.evaluator.spec.calibration)


def _begun(task: str) -> Header:
    """Return the header of a task's table, written where there is none: how it trains now, in the space of the draw.

    Raises:
        DataError: What is in the table was trained in another way.
    """
    drawn = Table.read(candidates_path(task)).header
    header = replace(drawn, spec={**spec_of(task).to_json(), "space": drawn.spec["space"]})
    path = table_path(task)
    if not path.exists():
        append(path, json.dumps(header.to_json()))
    held = parse(dict(Table.read(path).header.spec), path.name).to_json()  # what was not there then is at its default
    differs = [name for name in _TRAINS if held[name] != header.spec[name]]
    if differs:
        raise DataError(f"{path.name} was trained with another {one_of(differs)}; move it away to train it anew")
    return header


def _progress() -> Progress:
    return Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
