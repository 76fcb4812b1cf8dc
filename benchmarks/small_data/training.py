"""One run: a candidate trained on a few examples, its logits on every set that it is judged on."""

from __future__ import annotations

import time
from functools import cache, partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from benchmarks.small_data.data import CLASSES, Material, material
from benchmarks.small_data.plan import MODEL, STEPS, Run
from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import Backbone, load
from evaluators.data import Task
from evaluators.hooks import Schooling, hooks_of
from evaluators.measurement import predict_logits
from evaluators.optimisation import build_optimiser, build_schedule, loss_of
from evaluators.spec import TrainingSpec
from evaluators.tokens import Batch, Tokens, tokenise
from search_space.notation import parse

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
    backbone, data = _backbone(run.task), material(run.task)
    attached = attach(backbone.model, anatomy_of(backbone.model), parse(run.candidate), run.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        _train(attached, _train_tokens(run, data, backbone), steps or STEPS[run.size], run.seed, backbone)
        model = attached.model.eval()
        logits = {
            role: predict_logits(
                partial(_forward, model), tokens, CLASSES[run.task], TRAINING.evaluation_batch_size, backbone.device
            )
            for role, tokens in _judged(run.task).items()
        }
    if not all(np.isfinite(one).all() for one in logits.values()):
        raise FloatingPointError("the logits are not finite")
    return logits, time.process_time() - started


def _train(attached: Attached, tokens: Tokens, steps: int, seed: int, backbone: Backbone) -> None:
    hooks = hooks_of(attached)
    attached = hooks.begin(attached, Schooling(steps, iter(()), _loss_on))
    optimiser = build_optimiser(attached)
    schedule = build_schedule(optimiser, steps, TRAINING.warmup)
    order = tokens.shuffled(TRAINING.batch_size, seed)
    attached.model.train()
    for step in range(steps):
        batch = tokens.batch(next(order), backbone.device)
        logits = _forward(attached.model, [], batch)
        loss = hooks.penalised(loss_of(logits, batch.labels, attached.candidate.recipe.label_smoothing))
        norm = optimiser.update(loss, TRAINING.max_grad_norm, partial(hooks.after_step, step + 1))
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {step + 1}")
        schedule.step()


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


def _train_tokens(run: Run, data: Material, backbone: Backbone) -> Tokens:
    task = Task((), {"train": data.drawn(run.size, run.subset)})
    return tokenise(task, backbone.tokenizer, TRAINING)["train"]


@cache
def _judged(task: str) -> dict[str, Tokens]:
    return tokenise(Task((), material(task).judged), _backbone(task).tokenizer, TRAINING)
