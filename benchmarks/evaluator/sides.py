"""Paretune beside what a user would write, and each lever switched off."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.evaluator.journal import Journal
from benchmarks.evaluator.subject import CANDIDATES, MAX_LENGTH, Lora, evaluator_spec
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Score
from evaluators.tokens import Batch, Tokens
from evaluators.trained import TrainedEvaluator
from orchestrator.runner import Failure, Job, cluster, run_jobs
from orchestrator.spec import ResourcesSpec

ALL = "all levers"
LEVERS = (
    ALL,
    "no frozen prefix",
    "padded to the longest length",
    "backbone loaded for each trial",
    "data tokenised for each trial",
)
SIDES = ("ours", "bfloat16", "stock")


class _Jobs:
    """Hands out candidates in order, and keeps what they reached."""

    def __init__(self, candidates: Sequence[Lora], steps: int) -> None:
        self._waiting = [Job(f"search/{n}", one.candidate, 0, (steps,)) for n, one in enumerate(candidates)]
        self.accuracies: list[float] = []

    def next_job(self) -> Job | None:
        return self._waiting.pop(0) if self._waiting else None

    def more_later(self) -> bool:
        return False

    def on_score(self, job: Job, score: Score) -> bool:
        self.accuracies.append(score["accuracy"])
        return False

    def on_end(self, job: Job, failure: Failure | None) -> None:
        if failure is not None:
            raise RuntimeError(f"{job.candidate.canonical_json}: {failure.message}")

    def should_stop(self) -> bool:
        return False


def compare(journal: Journal, steps: int, train: int, evaluation: int, blocks: int, per_block: int) -> None:
    """Train the candidates on every side, block by block in turns: ours, ours under bfloat16, what a user would write.

    Args:
        journal: Keeps seconds and accuracies of each block.
        steps: Training steps of a candidate.
        train: Training examples.
        evaluation: Examples of each other role.
        blocks: Blocks of candidates.
        per_block: Candidates of a block, spread over all of them.
    """
    keys = [f"{side}/{number}" for number in range(blocks) for side in SIDES]
    if all(key in journal.rows for key in keys):
        return
    from benchmarks.evaluator import stock  # after our runner, which sets what Ray reads when it is imported

    resources = ResourcesSpec(cpus=1.0, concurrency=1)
    with tempfile.TemporaryDirectory() as folder, cluster(resources):
        specs = {
            side: evaluator_spec(Path(folder, side), steps, train, evaluation, dtype=dtype)
            for side, dtype in (("ours", "float32"), ("bfloat16", "bfloat16"))
        }

        def run(side: str, block: Sequence[Lora]) -> list[float]:
            if side == "stock":
                return stock.run(block, steps, train, evaluation)
            return _ours(specs[side], block, steps, resources)

        for number in range(blocks):
            block = CANDIDATES[number::blocks][:per_block]
            first = number % len(SIDES)
            for side in SIDES[first:] + SIDES[:first]:
                journal.once(f"{side}/{number}", lambda side=side, block=block: _timed(lambda: run(side, block)))  # type: ignore[misc]


def _ours(spec: EvaluatorSpec, block: Sequence[Lora], steps: int, resources: ResourcesSpec) -> list[float]:
    jobs = _Jobs(block, steps)
    run_jobs(jobs, spec, resources, 1, None)
    return jobs.accuracies


def _timed(run: Callable[[], list[float]]) -> dict[str, Any]:
    began = time.perf_counter()
    accuracies = run()
    return {"seconds": time.perf_counter() - began, "accuracies": accuracies}


def levers(journal: Journal, steps: int, train: int, evaluation: int, candidates: Sequence[Lora]) -> None:
    """Train candidates in this process with each lever switched off in turn; CPU seconds."""
    if all(f"lever/{one}/{number}" in journal.rows for number in range(len(candidates)) for one in LEVERS):
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        spec = evaluator_spec(Path(folder, "tokens"), steps, train, evaluation)
        off = replace(spec, training=spec.training.model_copy(update={"prefix_cache": 0}))
        padded = evaluator_spec(Path(folder, "padded"), steps, train, evaluation)
        warm = {ALL: TrainedEvaluator(spec), LEVERS[1]: TrainedEvaluator(off), LEVERS[2]: TrainedEvaluator(padded)}
        warm[LEVERS[4]] = warm[ALL]

        def run(lever: str, one: Lora) -> dict[str, Any]:
            began = time.process_time()
            if lever == LEVERS[4]:
                evaluator_spec(Path(folder, "again"), steps, train, evaluation)
            accuracy = _train(lever, warm.get(lever) or TrainedEvaluator(spec), one, steps)
            return {"seconds": time.process_time() - began, "accuracy": accuracy}

        for number, one in enumerate(candidates):
            first = number % len(LEVERS)
            for lever in LEVERS[first:] + LEVERS[:first]:
                journal.once(f"lever/{lever}/{number}", lambda lever=lever, one=one: run(lever, one))  # type: ignore[misc]


def _train(lever: str, evaluator: TrainedEvaluator, one: Lora, steps: int) -> float:
    with _padded() if lever == LEVERS[2] else nullcontext():
        run = evaluator.start(one.candidate, 0)
        run.train(steps)
        return run.advance(steps - 1)["accuracy"]  # scored as at a rung: what is measured once is no lever's


@contextmanager
def _padded() -> Iterator[None]:
    """Pad every batch to the longest length."""
    whole = Tokens.batch

    def batch(tokens: Tokens, indices: Sequence[int], device: torch.device) -> Batch:
        made = whole(tokens, indices, device)
        missing = MAX_LENGTH - made.inputs["input_ids"].shape[1]
        inputs = {name: torch.nn.functional.pad(one, (0, missing)) for name, one in made.inputs.items()}
        return Batch(inputs, made.labels)

    with mock.patch.object(Tokens, "batch", batch):
        yield
