"""What is gained and lost when early rungs look at some rows of validation?

    python -m benchmarks.rung_rows [--quick]

LoRA candidates are trained to the end, and scored at a rung on all of validation and on some rows of it, in turns. Then
it is decided three times who goes on there, each beside all others as they ended: by all rows, by some rows with
their intervals, and by some rows as if they were all. Lost is who goes on by all rows and is stopped by fewer; extra is
the other way round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluator.subject import CANDIDATES, evaluator_spec
from benchmarks.report import ratio_interval, write
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Score
from evaluators.subset import some_rows
from evaluators.trained import TrainedEvaluator, TrainedRun
from orchestrator.reach import Reach
from orchestrator.spec import EarlyStopping, Objective

RUNG, FULL = 21, 63
ROWS = (60, 150)
OBJECTIVES = (
    Objective(metric="accuracy", direction="maximize"),
    Objective(metric="trainable_params", direction="minimize"),
)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rung_rows")
    parser.add_argument("--quick", action="store_true", help="two candidates, a few steps")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    candidates, rung, full = (CANDIDATES[:2], 2, 4) if given.quick else (CANDIDATES[1::2], RUNG, FULL)
    with tempfile.TemporaryDirectory() as folder:
        spec = evaluator_spec(Path(folder), full, 960, 500, batch_size=16, prefix_cache=0)
        result = {"steps": rung, "examples": 500, **_measure(spec, candidates, rung, full), "quick": given.quick}
    text = markdown(result)
    print(text)
    if not given.quick:
        write("rung_rows", result, text)


def _measure(spec: EvaluatorSpec, candidates: Sequence[Any], rung: int, full: int) -> dict[str, Any]:
    evaluator = TrainedEvaluator(spec)
    labels = evaluator.tokens["validation"].labels
    looks = {rows: some_rows(labels, rows or len(labels)) for rows in (0, *ROWS)}
    scores: dict[int, list[Score]] = {rows: [] for rows in looks}
    ends: list[Score] = []
    seconds: dict[int, list[float]] = {rows: [] for rows in looks}
    for number, one in enumerate(candidates):
        run = evaluator.start(one.candidate, 0)
        run.train(rung)
        for rows in sorted(looks, reverse=bool(number % 2)):
            evaluator.rung_rows = looks[rows]
            took, score = _scored(run, rung)
            seconds[rows].append(took)
            scores[rows].append(score)
        ends.append(run.advance(full))
    return {
        "seconds": seconds,
        **_decisions(scores, ends),
        "coverage": {rows: _coverage(scores, rows) for rows in ROWS},
    }


def _scored(run: TrainedRun, rung: int) -> tuple[float, Score]:
    began = time.process_time()
    score = run.advance(rung)
    return time.process_time() - began, score


def _decisions(scores: dict[int, list[Score]], ends: Sequence[Score]) -> dict[str, Any]:
    """Return who goes on by all rows, and how many are lost and extra by fewer, with intervals and without."""
    every = _going_on(scores[0], ends)
    found: dict[str, Any] = {"candidates": len(scores[0]), "going_on": sum(every)}
    for rows in ROWS:
        bare = [replace(score, errors={}) for score in scores[rows]]
        for name, some in {"with": _going_on(scores[rows], ends), "without": _going_on(bare, ends)}.items():
            pairs = list(zip(every, some, strict=True))
            found[f"{rows} {name}"] = {"lost": pairs.count((True, False)), "extra": pairs.count((False, True))}
    return found


def _going_on(scores: Sequence[Score], ends: Sequence[Score]) -> list[bool]:
    """Return who goes on at a rung, each where all others were trained to the end."""
    decisions = []
    for number in range(len(scores)):
        rungs = Reach(EarlyStopping(eta=3.0, rungs=2, grace=1), OBJECTIVES, FULL)
        at_rung = [replace(one, step=rungs.steps[0], fidelity=rungs.steps[0] / FULL) for one in scores]
        for other, end in enumerate(ends):
            if other != number:
                rungs.record(other, at_rung[other])
                rungs.record(other, replace(end, step=FULL, fidelity=1.0))
        decisions.append(rungs.goes_on(number, at_rung[number]))
    return decisions


def _coverage(scores: dict[int, list[Score]], rows: int) -> float:
    """Return how often the accuracy on all rows is within 1.28 standard errors of that on some."""
    pairs = zip(scores[0], scores[rows], strict=True)
    return sum(abs(a["accuracy"] - b["accuracy"]) <= 1.28 * b.errors["accuracy"] for a, b in pairs) / len(scores[0])


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    seconds = {int(rows): one for rows, one in result["seconds"].items()}
    lines = [
        "## Rungs on some rows: what is gained and lost?",
        "",
        f"MiniLM-L6 on TREC, {result['candidates']} LoRA candidates after {result['steps']} steps of 16, CPU time of "
        f"one thread; {result['examples']} rows of validation. Objectives: accuracy and trainable parameters. By all "
        f"rows {result['going_on']} go on, each beside all others as they ended. Within: how often an 80 % interval "
        "holds the accuracy on all rows.",
        "",
        "| rows | time of scoring, all rows over these | lost, extra with intervals | without | within |",
        "|---:|---:|---:|---:|---:|",
    ]
    for rows in ROWS:
        ratio = ratio_interval(seconds[0], seconds[rows])
        counts = [f"{one['lost']}, {one['extra']}" for one in (result[f"{rows} with"], result[f"{rows} without"])]
        lines.append(f"| {rows} | {ratio} | {counts[0]} | {counts[1]} | {result['coverage'][rows]:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
