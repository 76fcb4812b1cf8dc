"""What one forward pass can have of an ensemble's NLL: the ensemble's training spent on one candidate, in five ways.

    longer       the reference candidate for as many steps as the five members together
    averaged     the same run, its weights averaged over the last fifth of the steps
    distilled    as long, learning the members' mean probabilities of the same texts in place of the labels
    unlabelled   the same, with all texts of the training pool, whose labels are not looked at
    searched     the best by calibrated NLL on validation of random candidates, length of training among their knobs

Each is judged as the pick is: with a temperature of the calibration rows, on test, beside the ensemble.
"""

from __future__ import annotations

import time
from functools import cache

import torch

from benchmarks.small_data import plan
from benchmarks.small_data.data import material
from benchmarks.small_data.journal import Journal
from benchmarks.small_data.plan import Run
from benchmarks.small_data.selection import one_pass_picks
from benchmarks.small_data.training import Lesson, judged_logits, labelled, said, tokens_of, trained
from calibration.softmax import softmax
from evaluators.attach import Attached
from evaluators.predictors import pooled_logits
from search_space.notation import parse

_TAIL = 0.2
"""Part of the steps over which weights are averaged."""


def train(journals: dict[str, Journal]) -> None:
    """Train what the journals do not have: first what costs least."""
    torch.set_num_threads(1)
    for run in references(plan.SEEDS):
        if run not in journals["averaged"].rows:
            _train_longer(run, journals["longer"], journals["averaged"])
    for run in references(plan.ONE_PASS_SEEDS):
        for way in ("distilled", "unlabelled"):
            if run not in journals[way].rows:
                _train(journals[way], run, plan.ONE_PASS_STEPS, _distillation(way))
    searched = journals["searched"]
    for run in candidates():
        if run not in searched.rows:
            _train(searched, run, _steps(run))
    for run in one_pass_picks(searched):
        if run not in searched.rows:
            _train(searched, run, _steps(run))


def references(seeds: int) -> list[Run]:
    """Return the reference candidate on some seeds."""
    return [Run(plan.ONE_PASS_TASK, plan.POOL_SIZE, 0, plan.REFERENCE, seed) for seed in range(seeds)]


def candidates() -> list[Run]:
    """Return the random candidates of the search, the reference first."""
    drawn = plan.drawn(plan.ONE_PASS_CANDIDATES - 1, seed=1, recipe={"training_share": list(plan.ONE_PASS_SHARES)})
    return [Run(plan.ONE_PASS_TASK, plan.POOL_SIZE, 0, one, 0) for one in (plan.REFERENCE, *drawn)]


def _steps(run: Run) -> int:
    return max(1, round(plan.ONE_PASS_STEPS * parse(run.candidate).recipe.training_share))


def _train(journal: Journal, run: Run, steps: int, lesson: Lesson | None = None) -> None:
    started = time.process_time()
    attached = trained(run, steps, lesson)
    _keep(journal, run, attached, time.process_time() - started)


def _train_longer(run: Run, plain: Journal, averaged: Journal) -> None:
    """Train a run once, and judge its last weights and the mean of its late ones."""
    started, mean = time.process_time(), Mean(round(plan.ONE_PASS_STEPS * (1 - _TAIL)))
    attached = trained(run, plan.ONE_PASS_STEPS, after_step=mean.add)
    seconds = time.process_time() - started
    if run not in plain.rows:
        _keep(plain, run, attached, seconds)
    mean.put(attached)
    _keep(averaged, run, attached, seconds)


def _keep(journal: Journal, run: Run, attached: Attached, seconds: float) -> None:
    journal.append(run, judged_logits(run.task, attached), seconds)
    print(f"{journal.path.stem}: {run.candidate} seed {run.seed}: {seconds:.1f} s", flush=True)


@cache
def _distillation(way: str) -> Lesson:
    """Return what the members of the ensemble say of texts: of those that they were trained on, or of all."""
    members = _members()
    texts = (
        material(plan.ONE_PASS_TASK).pool
        if way == "unlabelled"
        else material(plan.ONE_PASS_TASK).drawn(plan.POOL_SIZE, 0)
    )
    tokens = tokens_of(plan.ONE_PASS_TASK, texts)
    return Lesson(tokens, softmax(pooled_logits([said(plan.ONE_PASS_TASK, one, tokens) for one in members])))


@cache
def _members() -> list[Attached]:
    """Train the members again, as the plan does: their weights were not kept."""
    return [trained(run, plan.STEPS[run.size], labelled(run)) for run in plan.ensembles(plan.ONE_PASS_TASK)]


class Mean:
    """The mean of the trained weights after each of the later steps."""

    def __init__(self, first: int) -> None:
        self._first, self._count = first, 0
        self._sums: list[torch.Tensor] = []

    def add(self, attached: Attached, step: int) -> None:
        """Count the weights after a step in, from the first one on."""
        if step < self._first:
            return
        self._count += 1
        now = [one.detach().double() for one in attached.trainable]
        self._sums = [a + b for a, b in zip(self._sums, now, strict=True)] if self._sums else now

    def put(self, attached: Attached) -> None:
        """Write the mean into the model."""
        with torch.no_grad():
            for parameter, total in zip(attached.trainable, self._sums, strict=True):
                parameter.copy_(total / self._count)
