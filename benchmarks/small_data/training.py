"""One run: a candidate trained on a few examples, its logits on every set that it is judged on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from benchmarks.small_data.data import CLASSES, material
from benchmarks.small_data.plan import MODEL, STEPS, Run
from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import Backbone, load
from evaluators.data import Examples, Task
from evaluators.hook import Schooling
from evaluators.hooks import hooks_of
from evaluators.measurement import predict_logits
from evaluators.optimisation import build_optimiser, build_schedule, loss_of
from evaluators.spec import TrainingSpec
from evaluators.tokens import Batch, Tokens, tokenise
from search_space.notation import parse

DEVICE = torch.device("cpu")
TRAINING = TrainingSpec(batch_size=16, evaluation_batch_size=64, max_length=64)


def logits_of(run: Run, steps: int | None = None) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Train and judge a run.

    Args:
        run: What to train.
        steps: Optimiser steps; those of the plan when None.

    Returns:
        Logits of shape [rows, classes] by role, and the process's seconds.

    Raises:
        UnsupportedError: The model cannot carry the candidate.
        FloatingPointError: The gradient or the logits are not finite.
    """
    started = time.process_time()
    attached = trained(run, steps or STEPS[run.size])
    return judged_logits(run.task, attached), time.process_time() - started


def trained(
    run: Run, steps: int, lesson: Lesson | None = None, after_step: Callable[[Attached, int], None] = lambda *_: None
) -> Attached:
    """Train a run.

    Args:
        run: What to train.
        steps: Optimiser steps.
        lesson: What it learns from; the labelled examples of the run when None.
        after_step: Told after each step, with its number from 1.

    Raises:
        UnsupportedError: The model cannot carry the candidate.
        FloatingPointError: The gradient is not finite.
    """
    backbone = _backbone(run.task)
    attached = attach(backbone.model, anatomy_of(backbone.model), parse(run.candidate), run.seed)
    lesson = lesson or labelled(run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        hooks = hooks_of(attached)
        attached = hooks.begin(attached, Schooling(steps, iter(()), _loss_on))
        optimiser = build_optimiser(attached)
        schedule = build_schedule(optimiser, steps, TRAINING.warmup)
        order = lesson.tokens.shuffled(TRAINING.batch_size, run.seed)
        attached.model.train()
        for step in range(1, steps + 1):
            loss = hooks.penalised(lesson.loss(attached, next(order), backbone.device))
            norm = optimiser.update(loss, TRAINING.max_grad_norm, partial(hooks.after_step, step))
            if not torch.isfinite(norm):
                raise FloatingPointError(f"the gradient is not finite at step {step}")
            schedule.step()
            after_step(attached, step)
    return attached


@dataclass(frozen=True)
class Lesson:
    """What a run learns from.

    Attributes:
        tokens: Examples.
        targets: Probabilities of shape [examples, classes] to learn in place of the labels.
    """

    tokens: Tokens
    targets: NDArray[np.float64] | None = None

    def loss(self, attached: Attached, indices: list[int], device: torch.device) -> torch.Tensor:
        """Return the mean cross-entropy of a batch."""
        batch = self.tokens.batch(indices, device)
        logits = _forward(attached.model, [], batch)
        if self.targets is None:
            return loss_of(logits, batch.labels, attached.candidate.recipe.label_smoothing)
        wanted = torch.from_numpy(self.targets[indices]).to(logits)
        return nn.functional.cross_entropy(logits, wanted)


def labelled(run: Run) -> Lesson:
    """Return the labelled examples of a run."""
    return Lesson(tokens_of(run.task, material(run.task).drawn(run.size, run.subset)))


def judged_logits(task: str, attached: Attached) -> dict[str, NDArray[np.float64]]:
    """Return what a trained run says of every set that it is judged on. Raises FloatingPointError."""
    logits = {role: said(task, attached, tokens) for role, tokens in judged_tokens(task).items()}
    if not all(np.isfinite(one).all() for one in logits.values()):
        raise FloatingPointError("the logits are not finite")
    return logits


def said(task: str, attached: Attached, tokens: Tokens) -> NDArray[np.float64]:
    """Return the logits of a trained run, shape [examples, classes]."""
    forward = partial(_forward, attached.model.eval())
    return predict_logits(forward, tokens, CLASSES[task], TRAINING.evaluation_batch_size, _backbone(task).device)


def tokens_of(task: str, examples: Examples) -> Tokens:
    """Return some examples as tokens."""
    return tokenise(Task((), {"train": examples}), _backbone(task).tokenizer, TRAINING)["train"]


def _forward(model: nn.Module, _indices: list[int], batch: Batch) -> torch.Tensor:
    """Run the model under autocast, for one pass: it keeps cast weights until it ends, and would not see an update."""
    with torch.autocast("cpu", torch.bfloat16):
        logits: torch.Tensor = model(**batch.inputs).logits
    return logits.float()


def _loss_on(model: nn.Module, batch: Batch) -> torch.Tensor:
    return loss_of(model(**batch.inputs).logits, batch.labels, 0.0)


@cache
def _backbone(task: str) -> Backbone:
    backbone = load(MODEL, CLASSES[task])
    # Under autocast on a CPU, plain attention is twice as fast in training as the fused one.
    cast(PreTrainedModel, backbone.model).config._attn_implementation = "eager"
    return backbone


@cache
def judged_tokens(task: str) -> dict[str, Tokens]:
    """Return every set that runs of a task are judged on, as tokens by role."""
    return tokenise(Task((), material(task).judged), _backbone(task).tokenizer, TRAINING)
