"""Packing: candidates of equal shape trained in one forward pass of one backbone.

Runs that put plain LoRA or bottleneck adapters on the same modules, whatever their sizes, learning rates and seeds,
give their batches together: the frozen layers see all rows at once, and each run's matrices see its own rows, by one
batched product for all runs. Losses are added up, so that each run has the gradient that it would have alone,
and each makes its own step with its own optimiser, schedule and clipping. A run that is dropped leaves the others as
they are. It saves no arithmetic, only time that a device is not busy: how much that is must be measured (`gain`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from peft import PeftModel

from evaluators.backbone import checkpoint_activations, head_of
from evaluators.dropout import set_dropout
from evaluators.evaluation import Run
from evaluators.model_copies import copy_of
from evaluators.out_of_memory import out_of_memory_told
from evaluators.packable import WORTH
from evaluators.packed_layers import PACKED, PackedHead, batched, form_of, tuner_layers
from evaluators.prefix_cache import Forward
from evaluators.trained import TrainedRun
from evaluators.tuners.shapes import innermost
from search_space.errors import EvaluationError, UnsupportedError

_ROUNDS = 4


class PackedCrew:
    """Runs that are brought from rung to rung in one forward pass, where they go together and that is worth it.

    A few steps are made in turns, together and apart, to know. Runs that are to go on apart stand where they are then.

    Attributes:
        gain: As measured; 1 where they do not go together, None while too few steps were made to tell.
    """

    def __init__(self, runs: Sequence[TrainedRun]) -> None:
        """Take runs that stand at the same step."""
        fits = len(runs) > 1 and not why_not(runs)
        self._pack = Pack(runs) if fits else None
        self.gain: float | None = 1.0 if len(runs) > 1 and not fits else None

    def train(self, step: int) -> None:
        """Train up to the runs' own share of a step of the study."""
        pack = self._pack
        if pack is None or len(pack.runs) < 2:
            return
        until = min(run.own_steps(step) for run in pack.runs)
        with out_of_memory_told(pack.runs[0].step):
            if self.gain is None:
                self.gain = pack.gain(until)
            if self.gain is not None and self.gain >= WORTH:
                pack.train(until)

    def drop(self, run: Run) -> None:
        """Let a run go: stopped early, or failed."""
        if self._pack is not None and run in self._pack.runs:
            self._pack.drop(run)


class Pack:
    """Runs that train together.

    Attributes:
        runs: Those that are still in it.
        failed: Those that diverged, and why; the others go on.
    """

    def __init__(self, runs: Sequence[TrainedRun]) -> None:
        """Take runs of one evaluator that stand at the same step.

        Raises:
            UnsupportedError: They do not go together; the message says why.
        """
        if why := why_not(runs):
            raise UnsupportedError(f"these candidates cannot be packed: {why}")
        self.runs = list(runs)
        self.failed: dict[TrainedRun, EvaluationError] = {}
        self._turns: list[tuple[float, float]] = []
        self._host: tuple[tuple[TrainedRun, ...], Forward] | None = None

    def drop(self, run: TrainedRun) -> None:
        """Let a run go: stopped early, or failed."""
        self.runs.remove(run)

    def train(self, until: int) -> None:
        """Train every run up to a step of its own."""
        self._each_step(until, self._step)

    def gain(self, until: int) -> float | None:
        """Train a few steps in turns together and apart, none beyond a step, and return how much longer it takes apart.

        Medians count, without the first turn. Another call goes on where the steps did not suffice.

        Returns:
            The gain; None where there are too few steps to tell, or too few runs that are left.
        """
        while len(self._turns) <= _ROUNDS:
            if len(self.runs) < 2 or self.runs[0].step + 2 > until:
                return None
            self._turns.append((self._seconds(self._step), self._seconds(_apart)))
        together, apart = (median(seconds) for seconds in zip(*self._turns[1:], strict=True))
        return apart / together

    def _seconds(self, step: Callable[[Sequence[TrainedRun]], dict[TrainedRun, EvaluationError]]) -> float:
        """Make one step of every run, and return how long that took."""
        began = time.perf_counter()
        self._each_step(min((run.step for run in self.runs), default=0) + 1, step)
        _settle(self.runs)
        return time.perf_counter() - began

    def _each_step(self, until: int, step: Callable[[Sequence[TrainedRun]], dict[TrainedRun, EvaluationError]]) -> None:
        for run in self.runs:
            run.attached.model.train()
        while active := [run for run in self.runs if run.step < until]:
            for run, error in step(active).items():
                self.failed[run] = error
                self.drop(run)

    def _step(self, active: Sequence[TrainedRun]) -> dict[TrainedRun, EvaluationError]:
        """Make one step of some runs in one forward pass. Returns those that failed."""
        first = active[0]
        began, filling = time.perf_counter(), first.clock.seconds["prefix"]
        forward = self._forward_of(tuple(active))
        batches = [next(run.order) for run in active]
        rows = [row for batch in batches for row in batch]
        first.spent()
        with first.clock.phase("tokens"):
            batch = first.portion.tokens.batch(rows, first.evaluator.backbone.device)
        with first.clock.phase("forward"):
            logits = forward(first.portion, rows, batch).chunk(len(active))
            labels = batch.labels.chunk(len(active))
            losses = [run.loss_of(*one) for run, *one in zip(active, logits, labels, strict=True)]
        with first.clock.phase("backward"):
            torch.stack(losses).sum().backward()
        failed = {}
        for run in active:
            try:
                run.descend()
            except EvaluationError as error:
                failed[run] = error
        filling = first.clock.seconds["prefix"] - filling  # no run's own, as in a run that trains alone
        seconds, joules = time.perf_counter() - began - filling, first.spent()
        for run in active:
            run.note_step(seconds / len(active), joules / len(active))
        return failed

    def _forward_of(self, active: tuple[TrainedRun, ...]) -> Forward:
        """Return the forward pass of some runs, made anew when others were in it before."""
        if self._host is None or self._host[0] != active:
            self._host = active, _host_of(active)
        return self._host[1]


def _apart(active: Sequence[TrainedRun]) -> dict[TrainedRun, EvaluationError]:
    failed = {}
    for run in active:
        try:
            run.train(run.step + 1)
        except EvaluationError as error:
            failed[run] = error
    return failed


def _host_of(runs: Sequence[TrainedRun]) -> Forward:
    """Return the forward pass of a copy of the backbone with what all runs put on it."""
    evaluator = runs[0].evaluator
    bare, models = evaluator.backbone.model, [run.attached.model for run in runs]
    host: Any = copy_of(bare)
    host.config.use_cache = False
    set_dropout(host, 0.0)
    for name, layer in tuner_layers(models[0]).items():
        layers = [model.get_submodule(name) for model in models]
        host.set_submodule(name, PACKED[type(layer)](host.get_submodule(name), layers))
    for name in head_of(bare):
        host.set_submodule(name, PackedHead([model.get_submodule(name) for model in models]))
    host.train()
    if evaluator.spec.training.gradient_checkpointing:
        checkpoint_activations(host)
    return evaluator.prefix.forward_of(host)


def why_not(runs: Sequence[TrainedRun]) -> str:
    """Return why runs cannot be trained together, or an empty text."""
    if len({id(run.evaluator) for run in runs}) != 1 or len({run.step for run in runs}) != 1:
        return "they are not of one process, or not at one step"
    if runs[0].portion.tokens.tasks:
        return "there are several tasks, and each step is of one of them"
    sites = [{name: form_of(one) for name, one in tuner_layers(run.attached.model).items()} for run in runs]
    if not sites[0] or any(one != sites[0] for one in sites):
        return "they do not have the same adapters on the same modules"
    return next((why for run in runs if (why := _not_plain(run))), "")


def _not_plain(run: TrainedRun) -> str:
    """Return what a run has beside adapters that can be batched, or an empty text."""
    model: Any = run.attached.model
    layers = list(tuner_layers(model).values())
    if isinstance(model, PeftModel) or any(type(one) not in PACKED for one in layers):
        return "one has something else than LoRA and bottleneck adapters"
    own = [weight for one in layers for weight in batched(one)]
    if any(not weight.requires_grad for weight in own):
        return "one keeps a matrix as drawn"
    if sum(weight.numel() for weight in own) != run.attached.trainable_params:
        return "one trains something else than plain matrices: a variant or a bias"
    frozen: list[Any] = [innermost(one) for one in layers]
    if any(one.weight.data_ptr() not in run.evaluator.backbone.addresses for one in frozen if hasattr(one, "weight")):
        return "one begins with other frozen weights"
    if run.attached.candidate.recipe.dropout:
        return "one has dropout, which would be drawn otherwise"
    return "" if run.at_once == len(run.portion.groups[0]) else "the steps of one are divided"


def _settle(runs: Sequence[TrainedRun]) -> None:
    if any(run.evaluator.backbone.device.type == "cuda" for run in runs):
        torch.cuda.synchronize()
