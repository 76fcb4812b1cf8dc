"""Trains what was drawn, one candidate after another, and appends each as a whole line to the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.json_lines import append
from benchmarks.table.tasks import NOISE, SEEDS, candidates_path, spec_of, table_path
from evaluators.measurement import quality
from evaluators.score import Score
from evaluators.tabulated import Header, Row, Table
from evaluators.trained import TrainedEvaluator, TrainedRun
from orchestrator.preparation import prepare
from search_space.errors import EvaluationError, ParetuneError
from search_space.notation import write

_MEASURED = ("checkpoint_bytes", "peak_memory_bytes", "latency_ms", "train_step_ms")


def planned(task: str) -> list[Row]:
    """Return what is to be trained, in order: every candidate on seed 0, then the noisy ones on further seeds."""
    drawn = Table.read(candidates_path(task))
    rows = drawn.main()
    return [*rows, *(replace(row, seed=seed) for row in rows[: NOISE[task]] for seed in SEEDS)]


def done(task: str) -> set[tuple[str, int]]:
    """Return the keys of the rows that are there."""
    return set(Table.read(table_path(task)).rows) if table_path(task).exists() else set()


def train(task: str, shard: tuple[int, int]) -> None:
    """Train what is missing of one shard.

    Args:
        task: `trec` or `movie`.
        shard: Which part of how many, from 1: (1, 2) and (2, 2) can run beside each other.
    """
    which, of = shard
    waiting = [row for row in planned(task)[which - 1 :: of] if row.key not in done(task)]
    _begin(task)
    with TemporaryDirectory() as folder, _progress() as progress:
        evaluator = TrainedEvaluator(prepare(spec_of(task), Path(folder)).evaluator)
        header = Table.read(candidates_path(task)).header
        bar = progress.add_task(task, total=len(waiting))
        for row in waiting:
            progress.update(bar, description=write(row.candidate)[:60])
            append(table_path(task), json.dumps(_trained(evaluator, header, row).to_json(), separators=(",", ":")))
            progress.advance(bar)


def _trained(evaluator: TrainedEvaluator, header: Header, row: Row) -> Row:
    try:
        run = evaluator.start(row.candidate, row.seed)
        scores = list(_by_rungs(run, header.rungs))
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


def _begin(task: str) -> None:
    if not table_path(task).exists():
        append(table_path(task), candidates_path(task).read_text().partition("\n")[0])


def _progress() -> Progress:
    return Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
