"""Other predictors made of one trained candidate: what they say of every role, and what they cost.

    dropout    MC-dropout (Gal & Ghahramani 2016): several passes with dropout on, at the rate of its training
    laplace    the last layer's weights as a Gaussian (`evaluators.laplace`), at one pass
    laplace_diagonal, laplace_kronecker    the adapter's weights too (`evaluators.adapter_laplace`)

Ensembles are made of several candidates, and need no more than what each says: `orchestrator/predictors.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.spec import CalibrationSpec
from evaluators.attach import Attached
from evaluators.evaluation import TEST_FILE
from evaluators.measurement import median_ms, predict_logits
from evaluators.posteriors import Spread, fit_posterior
from evaluators.predictors import dropping, pooled_logits
from evaluators.tokens import Batch, Tokens
from search_space.errors import UnsupportedError
from search_space.files import atomic_write

Floats = NDArray[np.float64]
MOST_EXAMPLES = 1000
"""Training examples that stand for all of them where a posterior is fitted."""


@dataclass(frozen=True)
class Variant:
    """One other predictor.

    Attributes:
        logits: By role, shape [examples, classes]; softmax of them is what it predicts.
        passes: Passes through the model for each text, there or back.
        bytes: Beside those of the candidate.
        latency_ms: Median milliseconds for one example of median length.
    """

    logits: Mapping[str, Floats]
    passes: int
    bytes: int
    latency_ms: float


@dataclass(frozen=True)
class FinalistLogits:
    """What a finalist left of the test split, and its variants on every role.

    Attributes:
        logits: Of the test split.
        labels: Of the test split.
        variants: By name.
        refused: Why others could not be made, by name.
    """

    logits: Floats
    labels: NDArray[np.int64]
    variants: Mapping[str, Variant]
    refused: Mapping[str, str]

    def save(self, folder: Path) -> None:
        """Write this into a finalist's folder, whole."""
        arrays: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {"logits": self.logits, "labels": self.labels}
        about = {}
        for name, one in self.variants.items():
            arrays |= {f"{name}/{role}": logits for role, logits in one.logits.items()}
            about[name] = {"passes": one.passes, "bytes": one.bytes, "latency_ms": one.latency_ms}
        metadata = {"variants": json.dumps(about), "refused": json.dumps(dict(self.refused))}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        atomic_write(folder / TEST_FILE, safetensors.numpy.save(contiguous, metadata))

    @classmethod
    def load(cls, folder: Path) -> FinalistLogits:
        """Read what `save` wrote. Raises OSError and SafetensorError."""
        with safetensors.safe_open(folder / TEST_FILE, framework="numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        variants = {}
        for name, about in json.loads(metadata["variants"]).items():
            said = {one.partition("/")[2]: array for one, array in arrays.items() if one.startswith(f"{name}/")}
            variants[name] = Variant(said, **about)
        return cls(arrays["logits"], arrays["labels"], variants, json.loads(metadata["refused"]))


@dataclass(frozen=True)
class Bench:
    """What variants are made with.

    Attributes:
        attached: A trained candidate.
        roles: Examples of validation, calibration and test.
        train: Training examples.
        classes: Number of classes.
        size: Examples of a forward pass.
        device: Where the model is.
        seed: Of everything random.
    """

    attached: Attached
    roles: Mapping[str, Tokens]
    train: Tokens
    classes: int
    size: int
    device: torch.device
    seed: int


def make_variants(bench: Bench, spec: CalibrationSpec) -> tuple[dict[str, Variant], dict[str, str]]:
    """Return the variants that a study asks for, and why others cannot be made of this candidate."""
    makers: dict[str, Callable[[Bench, CalibrationSpec], Variant]] = {
        "dropout": dropout_variant,
        "laplace": partial(laplace_variant, "last_layer"),
        "laplace_diagonal": partial(laplace_variant, "diagonal"),
        "laplace_kronecker": partial(laplace_variant, "kronecker"),
    }
    made: dict[str, Variant] = {}
    refused: dict[str, str] = {}
    bench.attached.model.eval()
    for name in (one for one in makers if one in spec.predictors):
        try:
            made[name] = makers[name](bench, spec)
        except UnsupportedError as error:
            refused[name] = str(error)
    return made, refused


def dropout_variant(bench: Bench, spec: CalibrationSpec) -> Variant:
    """Average several passes with dropout on.

    Raises:
        UnsupportedError: The candidate was trained without dropout.
    """
    model, rate = bench.attached.model, bench.attached.candidate.recipe.dropout
    if not rate:
        raise UnsupportedError("it was trained without dropout, so that its passes would mean nothing")
    devices = [bench.device] if bench.device.type == "cuda" else []

    def forward(_indices: list[int], batch: Batch) -> Tensor:
        logits: Tensor = model(**batch.inputs).logits
        return logits

    with torch.random.fork_rng(devices=devices), dropping(model, rate):
        torch.manual_seed(bench.seed)
        logits = {
            role: pooled_logits(
                [predict_logits(forward, tokens, bench.classes, bench.size, bench.device) for _ in range(spec.passes)]
            )
            for role, tokens in bench.roles.items()
        }
        once = _latency_ms(bench, lambda inputs: model(**inputs).logits.cpu())
    return Variant(logits, spec.passes, 0, spec.passes * once)


def laplace_variant(spread: Spread, bench: Bench, _spec: CalibrationSpec) -> Variant:
    """Spread the weights of the last layer, or of the adapter and the head.

    Raises:
        UnsupportedError: The candidate has no such posterior, or was trained on several tasks.
    """
    if bench.train.tasks:
        raise UnsupportedError("its last layer is that of several tasks; Laplace is for one")
    rows = _training_rows(bench)
    batches = (bench.train.batch(part, bench.device).inputs for part in _in_batches(bench.train, rows, bench.size))
    posterior = fit_posterior(bench.attached, batches, len(rows) / len(bench.train.ids), spread)
    logits = {}
    for role, tokens in bench.roles.items():
        logits[role] = np.empty((len(tokens.ids), bench.classes))
        for indices, batch in tokens.in_order(bench.size, bench.device):
            logits[role][indices] = posterior.logits(batch.inputs)
    return Variant(logits, posterior.passes, posterior.bytes, _latency_ms(bench, posterior.logits))


def _training_rows(bench: Bench) -> list[int]:
    """Return the positions of the training examples that stand for all."""
    drawn = np.random.default_rng(bench.seed).permutation(len(bench.train.ids))
    return [int(row) for row in drawn[:MOST_EXAMPLES]]


def _in_batches(tokens: Tokens, rows: list[int], size: int) -> Iterator[list[int]]:
    """Yield positions of some examples, like lengths together."""
    order = sorted(rows, key=lambda row: -len(tokens.ids[row]))
    return (order[start : start + size] for start in range(0, len(order), size))


def _latency_ms(bench: Bench, call: Callable[[Mapping[str, Tensor]], object]) -> float:
    order = sorted(range(len(bench.train.ids)), key=lambda i: len(bench.train.ids[i]))
    batch = bench.train.batch([order[len(order) // 2]], bench.device)
    with torch.no_grad():  # unlike inference_mode it lets a call ask for gradients
        return median_ms(lambda: call(batch.inputs))
