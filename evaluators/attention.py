"""Which implementation of attention is the fastest here: measured once when a study starts.

No rule holds everywhere. With bfloat16 on processors that have AMX the plain one (eager) is nearly twice as fast as
torch's fused one (sdpa), whose way back is slow there; on GPUs and for long texts it is the other way round. So a model
of one layer with random weights takes a few steps on batches of the study, in the study's type.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from evaluators.backbone import Machine, avoid_attention_plans, choose_machine, load_config
from evaluators.optimisation import loss_of
from evaluators.spec import ModelSpec, TrainingSpec
from evaluators.tokens import Batch, TokenFolder, Tokens
from search_space.errors import UnsupportedError

IMPLEMENTATIONS = ("sdpa", "eager")
_CLEARLY = 0.9
"""What is usual stays, unless another takes less than this share of its time: noise shall not decide."""
_ROUNDS, _SECONDS = 5, 3.0
_QUANTILES = (0.25, 0.5, 0.9)


@dataclass(frozen=True)
class Attention:
    """What was measured, and what follows.

    Attributes:
        chosen: The implementation.
        milliseconds: The fastest of the rounds, by implementation: training steps and forward passes of one layer.
        dtype: Type of the weights.
        device: Where.
        batch: Examples of a step.
        lengths: Tokens of the longest example of each batch.
    """

    chosen: str
    milliseconds: Mapping[str, float]
    dtype: str
    device: str
    batch: int
    lengths: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        return {**self.__dict__, "milliseconds": dict(self.milliseconds), "lengths": list(self.lengths)}


def fastest_attention(spec: ModelSpec, training: TrainingSpec, tokens: Tokens, classes: int, threads: int) -> Attention:
    """Measure the implementations of attention that a model has, in turns, and choose.

    Args:
        spec: The model; its own `attention` is not looked at.
        training: How large steps are.
        tokens: The examples of training.
        classes: Of the task.
        threads: That a trial may use.

    Raises:
        DataError, UnsupportedError: The model's configuration cannot be read or is refused, or it has neither.
    """
    avoid_attention_plans()
    machine = choose_machine(spec.model_copy(update={"attention": "auto"}))
    config = load_config(spec, classes)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokens.padding
    tokens = replace(tokens, tasks=())  # of several tasks the model here is told nothing
    batches = _batches(tokens, training.batch_size, machine.device)
    with torch.random.fork_rng(devices=[machine.device] if machine.device.type == "cuda" else []), _on(threads):
        models = _models(config, machine)
        best = _times(models, batches, machine.device)
    usual = machine.attention if machine.attention in best else min(best, key=lambda name: best[name])
    fastest = min(best, key=lambda name: best[name])
    lengths = tuple(batch.inputs["input_ids"].shape[1] for batch in batches)
    return Attention(
        chosen=fastest if best[fastest] < _CLEARLY * best[usual] else usual,
        milliseconds={name: 1e3 * seconds for name, seconds in best.items()},
        dtype=str(machine.dtype).removeprefix("torch."),
        device=machine.device.type,
        batch=len(batches[0]),
        lengths=lengths,
    )


def measured_apart(spec: ModelSpec, training: TrainingSpec, tokens: Path, threads: int) -> dict[str, Any]:
    """Measure in a process of its own, whose end gives back all that it took of a GPU, the context included.

    Args:
        spec: The model.
        training: How large steps are.
        tokens: The folder of the study's tokens.
        threads: That a trial may use.

    Returns:
        What `fastest_attention` finds, as JSON data.

    Raises:
        UnsupportedError: It could not be measured; the message says why.
    """
    request = {"model": spec.model_dump(mode="json"), "training": training.model_dump(mode="json")}
    where = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "evaluators.attention"],
        input=json.dumps({**request, "tokens": str(tokens), "threads": threads}),
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": where},
    )  # fmt: skip
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2] or f"its process ended with {done.returncode}"
        raise UnsupportedError(f"model.attention cannot be measured: {why}; give `eager` or `sdpa`")
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    folder = TokenFolder.open(Path(request["tokens"]))
    model, training = ModelSpec.model_validate(request["model"]), TrainingSpec.model_validate(request["training"])
    return fastest_attention(model, training, folder.read("train"), len(folder.classes), request["threads"]).to_json()


def _batches(tokens: Tokens, size: int, device: torch.device) -> list[Batch]:
    """Return a short, a usual and a long batch of the study."""
    whole = (group for group in tokens.first_pass(size, 0) if len(group) == min(size, len(tokens.ids)))
    groups = sorted(whole, key=lambda group: max(len(tokens.ids[i]) for i in group))
    return [tokens.batch(groups[int(quantile * (len(groups) - 1))], device) for quantile in _QUANTILES]


def _models(config: Any, machine: Machine) -> dict[str, nn.Module]:
    """Build a model of one layer for each implementation that it has; what a bias or a norm needs goes through it."""
    short = type(config).from_dict(config.to_dict() | {"num_labels": config.num_labels})
    short.num_hidden_layers = 1
    if types := getattr(short, "layer_types", None):
        short.layer_types = types[:1]
    models: dict[str, nn.Module] = {}
    for name in IMPLEMENTATIONS:
        try:
            model = transformers.AutoModelForSequenceClassification.from_config(
                short, attn_implementation=name, dtype=machine.dtype
            )
        except ValueError:
            continue  # this architecture has no such implementation
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim < 2)
        models[name] = model.to(machine.device)
    if not models:
        raise UnsupportedError(f"{config.model_type} has none of the known implementations of attention")
    return models


def _times(models: Mapping[str, nn.Module], batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Return the seconds of the fastest round of each model; the first round is not counted."""
    best = dict.fromkeys(models, float("inf"))
    began = time.perf_counter()
    for number in range(_ROUNDS + 1):
        for name, model in models.items():
            seconds = _round(model, batches, device)
            best[name] = min(best[name], seconds) if number else best[name]
        if number and time.perf_counter() - began > _SECONDS:
            break
    return best


def _round(model: nn.Module, batches: Sequence[Batch], device: torch.device) -> float:
    _settle(device)
    began = time.perf_counter()
    for batch in batches:
        loss_of(model(**batch.inputs).logits, batch.labels, 0.0).backward()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            model(**batch.inputs)
    _settle(device)
    return time.perf_counter() - began


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _on(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
