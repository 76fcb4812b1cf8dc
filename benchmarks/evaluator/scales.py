"""How the cost of a step grows, and full fine-tuning beside PEFT at three scales.

The models have random weights: time and memory do not depend on their values.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from benchmarks.evaluator.journal import Journal
from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.memory import measure_peak_bytes
from evaluators.optimisation import build_optimiser, loss_of
from search_space.notation import parse

_BERT = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30_522}
AXES: Mapping[str, tuple[int, ...]] = {
    "layers": (2, 4, 8, 16),
    "width": (192, 384, 768, 1152),
    "tokens": (16, 32, 64, 128, 256),
    "examples": (2, 4, 8, 16, 32),
    "candidates": (1, 4, 16, 64),
}
MODELS = ("3 layers, 17 M", "6 layers, 23 M", "30 layers, 135 M (decoder)")
METHODS = ("full", "lora(r=8)", "lora(r=8)@attention.query,attention.value[top:1]", "bitfit", "serial_adapter", "head")


@dataclass(frozen=True)
class Setting:
    """A model, a batch, and how many candidates take a step on it one after another."""

    layers: int = 4
    width: int = 384
    tokens: int = 32
    examples: int = 8
    candidates: int = 1


def scale(journal: Journal, steps: int, axes: Mapping[str, tuple[int, ...]]) -> None:
    """Time steps of LoRA along each axis, the others fixed; CPU seconds.

    Along `candidates` as many are attached to one backbone one after another, trained for a step each and dropped.
    """
    torch.set_num_threads(1)
    for axis, values in axes.items():
        for value in values:
            journal.once(f"scale/{axis}/{value}", lambda axis=axis, value=value: _along(axis, value, steps))  # type: ignore[misc]


def _along(axis: str, value: int, steps: int) -> dict[str, Any]:
    setting = Setting(**{axis: value})
    model = _bert(setting.layers, setting.width)
    if axis == "candidates":
        return {"seconds": [_one_after_another(model, setting) for _ in range(max(1, steps // 2))]}
    return {"seconds": _times(model, "lora(r=8)", setting, steps)[0]}


def _one_after_another(model: nn.Module, setting: Setting) -> float:
    began = time.process_time()
    ids, labels, anatomy = *_batch(setting), anatomy_of(model)
    for number in range(setting.candidates):
        attached = attach(model, anatomy, parse(f"lora(r={2 ** (1 + number % 4)})"), number)
        attached.model.train()
        logits = attached.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        build_optimiser(attached).update(loss_of(logits, labels, 0.0), 1.0)
    return time.process_time() - began


def _batch(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (setting.examples, setting.tokens)
    return torch.randint(5, 1000, shape), torch.randint(0, 6, (setting.examples,))


def _bert(layers: int, width: int) -> nn.Module:
    config = transformers.BertConfig(
        **_BERT | {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32},
        num_hidden_layers=layers,
        num_labels=6,
    )
    return transformers.BertForSequenceClassification(config).eval().requires_grad_(False)


def _decoder() -> nn.Module:
    """SmolLM2-135M's shapes."""
    config = transformers.LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, num_labels=6, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForSequenceClassification(config).eval().requires_grad_(False)


def full_beside_peft(journal: Journal, steps: int, models: tuple[str, ...]) -> None:
    """Time and memory of a step of full fine-tuning and of PEFT methods on three models."""
    torch.set_num_threads(1)
    build = dict(zip(MODELS, (lambda: _bert(3, 384), lambda: _bert(6, 384), _decoder), strict=True))
    for name in models:
        keys = {method: f"peft/{name}/{method}" for method in METHODS}
        if all(key in journal.rows for key in keys.values()):
            continue
        model = build[name]()
        for method, key in keys.items():
            journal.once(key, lambda model=model, method=method: _step(model, method, steps))  # type: ignore[misc]


def _step(model: nn.Module, method: str, steps: int) -> dict[str, Any]:
    seconds, peak, attached = _times(model, method, Setting(), steps)
    return {"seconds": seconds, "peak_bytes": peak, "trainable": attached.trainable_params}


def _times(model: nn.Module, method: str, setting: Setting, steps: int) -> tuple[list[float], int, Attached]:
    """Return the CPU seconds of steps, the peak bytes of one, and what was trained."""
    attached = attach(model, anatomy_of(model), parse(method))
    attached.model.train()
    optimiser = build_optimiser(attached)
    ids, labels = _batch(setting)

    def step() -> None:
        logits = attached.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        optimiser.update(loss_of(logits, labels, 0.0), 1.0)

    step()
    seconds = []
    for _ in range(steps):
        began = time.process_time()
        step()
        seconds.append(time.process_time() - began)
    return seconds, measure_peak_bytes(attached.model, optimiser.tensors, step, torch.device("cpu")), attached


def exponent(sizes: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """Return the slope of the seconds over the sizes, both in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def plot(journal: Journal, axes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, float]:
    """Draw how the cost of a step grows, and return the exponent along each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    exponents = {}
    figure, panels = pyplot.subplots(1, len(axes), figsize=(3 * len(axes), 2.8), layout="constrained")
    for panel, (axis, values) in zip(np.atleast_1d(panels), axes.items(), strict=True):
        seconds = np.array([median(journal.rows[f"scale/{axis}/{value}"]["seconds"]) for value in values])
        exponents[axis] = exponent(np.array(values, dtype=np.float64), seconds)
        panel.loglog(values, 1e3 * seconds, "o-")
        panel.set_xticks(values, labels=map(str, values))
        panel.set_xticks([], minor=True)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
        panel.set_xlabel(axis)
        panel.set_title(f"exponent {exponents[axis]:.2f}", fontsize=9)
    np.atleast_1d(panels)[0].set_ylabel("CPU ms")
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".png", delete=False) as file:
        figure.savefig(file.name, dpi=110)
    Path(file.name).replace(path)
    pyplot.close(figure)
    return exponents
