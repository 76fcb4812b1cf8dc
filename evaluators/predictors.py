"""Better probabilities from what is trained already: ensembles of candidates on one backbone, and MC-dropout.

Both average probabilities over passes and are calibrated after that, by a temperature of their own: the mean of
overconfident members is often too shy, so that their own temperatures no longer fit (Rahaman & Thiery 2021). What they
cost is told beside them: passes, bytes, and milliseconds where somebody measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from calibration.calibrators import Calibrator
from calibration.spec import CalibrationSpec
from calibration.temperature import fit_temperature
from evaluators.calibrated import JUDGED, calibrate, groups_in
from evaluators.evaluation import PREDICTIONS_FILE
from evaluators.exported import Predictor, calibrated_probabilities, load_exported, read_about, tasks_in
from evaluators.measurement import median_ms
from evaluators.shared_prefix import SharedPrefix
from evaluators.task_calibrator import TaskCalibrator
from evaluators.tasks import TaskColumns
from search_space.errors import ExportError

Texts: TypeAlias = Sequence[str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class PredictionCost:
    """What a prediction costs.

    Attributes:
        passes: Forward passes through the backbone for each text.
        bytes: Of every tensor beside the backbone's.
        shared_layers: The lowest layers of these passes, as far as one run serves them all.
        latency_ms: Median milliseconds for one text; None where it was not measured.
    """

    passes: int
    bytes: int
    shared_layers: int = 0
    latency_ms: float | None = None


@dataclass(frozen=True)
class Ensemble:
    """Candidates on one backbone whose probabilities are averaged: front members, or seeds of one candidate.

    Attributes:
        members: At least two, of the same classes.
        fit: The calibrator of the mean; None where it is not calibrated.
    """

    members: tuple[Predictor, ...]
    fit: Calibrator | None = None

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(f"an ensemble needs at least two members, not {len(self.members)}")

    def logits(self, texts: Texts) -> NDArray[np.float64]:
        """Return the logarithm of the members' mean probabilities, shape [texts, classes]."""
        if not texts or self._shared is None:
            return pooled_logits([member.logits(texts) for member in self.members])
        logits = self._shared.logits(self.members[0].inputs(texts))
        return pooled_logits([member.own(one) for member, one in zip(self.members, logits, strict=True)])

    @cached_property
    def _shared(self) -> SharedPrefix | None:
        """What runs the members' common lower layers once; None where they do not stand on one backbone."""
        first = self.members[0]
        if any(one.backbone is not first.backbone or one.max_length != first.max_length for one in self.members):
            return None
        return SharedPrefix(first.backbone, [one.model for one in self.members], first.inputs(["a"]))

    def probabilities(self, texts: Texts) -> NDArray[np.float64]:
        """Return calibrated probabilities of shape [texts, classes]."""
        return calibrated_probabilities(self.logits(texts), self.fit)

    @cached_property
    def cost(self) -> PredictionCost:
        """One pass and the bytes of each member; the backbone is there once, and so are the layers that all leave."""
        costs = [cost_of(member) for member in self.members]
        shared = self._shared.depth if self._shared else 0
        return PredictionCost(sum(one.passes for one in costs), sum(one.bytes for one in costs), shared)


@dataclass(frozen=True)
class DropoutEnsemble:
    """One candidate, several passes with the backbone's dropout left on (Gal & Ghahramani 2016).

    Attributes:
        member: The candidate.
        rate: Probability of dropout, in (0, 1); that of its training is the one that has a meaning.
        passes: How many, at least two.
        seed: Decides what is dropped: the same texts in one call give the same probabilities.
        fit: The calibrator of the mean; None where it is not calibrated.
    """

    member: Predictor
    rate: float
    passes: int = 10
    seed: int = 0
    fit: Calibrator | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"a rate of {self.rate} drops nothing or everything; train with recipe.dropout above 0")
        if self.passes < 2:
            raise ValueError(f"MC-dropout needs at least two passes, not {self.passes}")
        if not _dropouts(self.member.model):
            raise ValueError("this model has no dropout layer")

    def logits(self, texts: Texts) -> NDArray[np.float64]:
        """Return the logarithm of the mean probabilities over the passes, shape [texts, classes]."""
        device = self.member.backbone.device
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with forked, dropping(self.member.model, self.rate):
            torch.manual_seed(self.seed)
            return pooled_logits([self.member.logits(texts) for _ in range(self.passes)])

    def probabilities(self, texts: Texts) -> NDArray[np.float64]:
        """Return calibrated probabilities of shape [texts, classes]."""
        return calibrated_probabilities(self.logits(texts), self.fit)

    @cached_property
    def cost(self) -> PredictionCost:
        """The passes, and the bytes of the one candidate."""
        return replace(cost_of(self.member), passes=self.passes)


@contextmanager
def dropping(model: nn.Module, rate: float) -> Iterator[None]:
    """Turn a model's dropout on, and nothing else that training does; off again whatever happens."""
    before = [(layer, layer.p, layer.training) for layer in _dropouts(model)]
    try:
        for layer, *_ in before:
            layer.p, layer.training = rate, True
        yield
    finally:
        for layer, was, training in before:
            layer.p, layer.training = was, training


class Averaging(Protocol):
    """What averages predictions: an ensemble, MC-dropout, a posterior. A frozen dataclass with a `fit`."""

    @property
    def fit(self) -> Calibrator | None:
        """The calibrator of what it says; None where it is not calibrated."""

    @property
    def cost(self) -> PredictionCost:
        """What a prediction costs, the time aside."""

    def logits(self, texts: Texts) -> NDArray[np.float64]:
        """Return the logarithm of the mean probabilities, shape [texts, classes]."""

    def probabilities(self, texts: Texts) -> NDArray[np.float64]:
        """Return calibrated probabilities of shape [texts, classes]."""


_Averaging = TypeVar("_Averaging", bound=Averaging)


def pooled_logits(logits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the logarithm of the mean of softmax(logits), each of shape [texts, classes].

    Raises:
        ValueError: Nothing is given, or the shapes differ.
    """
    if len({one.shape for one in logits}) != 1:
        raise ValueError(f"logits of one shape are needed, not of {sorted({one.shape for one in logits})}")
    stacked = np.stack(logits)
    shifted = stacked - stacked.max(axis=2, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    return np.asarray(np.logaddexp.reduce(logs, axis=0) - np.log(len(logits)))


def load_ensemble(folders: Sequence[str | Path], task: str | None = None) -> Ensemble:
    """Load exported candidates onto one backbone, with the calibrator of their mean that their study asks for.

    Args:
        folders: What `paretune export` wrote, at least two, of one study's data.
        task: Which of several tasks to predict, where they were trained on several.

    Raises:
        ExportError: A folder is not an export, or a merged one; or they differ in model, classes, length or calibration
            labels.
        CalibrationError: The recorded predictions are not fit to use.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise ExportError(f"an ensemble needs at least two folders, not {len(paths)}")
    abouts = [read_about(path) for path in paths]
    for name in ("model", "classes", "max_length", "tasks"):
        for path, about in zip(paths, abouts, strict=True):
            if about.get(name) != abouts[0].get(name):
                raise ExportError(f"{path} differs from {paths[0]} in its {name}; an ensemble stands on one backbone")
    for path, about in zip(paths, abouts, strict=True):
        if about.get("merged"):
            raise ExportError(f"{path} is merged into weights of its own; export it without --merged for an ensemble")
    fit = _fit_of_mean(paths, CalibrationSpec.model_validate(abouts[0]["calibration"]), tasks_in(abouts[0]))
    first = load_exported(paths[0], task=task)
    rest = [load_exported(path, backbone=first.backbone, task=task) for path in paths[1:]]
    if isinstance(fit, TaskCalibrator) and task is not None:
        fit = fit.of(task)
    return Ensemble((first, *rest), fit)


def calibrated(predictor: _Averaging, texts: Texts, labels: Sequence[int]) -> _Averaging:
    """Return an ensemble with a temperature fitted on labelled texts that it was not trained on.

    Raises:
        CalibrationError: Labels that are not fit to use.
    """
    changed: Any = predictor  # a protocol cannot say that it is a dataclass
    fit = fit_temperature(predictor.logits(texts), np.asarray(labels))
    return cast(_Averaging, replace(changed, fit=fit))


def cost_of(predictor: Predictor) -> PredictionCost:
    """Return what one candidate costs beside its backbone."""
    own = {}
    for tensor in predictor.model.state_dict().values():
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in predictor.backbone.storages:
            own[storage.data_ptr()] = storage.nbytes()
    return PredictionCost(1, sum(own.values()))


def measured(predictor: Averaging | Predictor, text: Any) -> PredictionCost:
    """Return a predictor's cost with the median milliseconds to classify one text, tokenisation included."""
    latency = median_ms(lambda: predictor.probabilities([text]))
    cost = cost_of(predictor) if isinstance(predictor, Predictor) else predictor.cost
    return replace(cost, latency_ms=latency)


def _dropouts(model: nn.Module) -> list[nn.Dropout]:
    return [module for module in model.modules() if isinstance(module, nn.Dropout)]


def _fit_of_mean(paths: Sequence[Path], spec: CalibrationSpec, tasks: Sequence[TaskColumns]) -> Calibrator | None:
    """Fit the calibrator of the mean on what each member recorded."""
    recorded = [_recorded(path) for path in paths]
    for path, arrays in zip(paths, recorded, strict=True):
        if any(not np.array_equal(arrays[f"{role}_labels"], recorded[0][f"{role}_labels"]) for role in JUDGED):
            raise ExportError(f"{path} was calibrated on other examples than {paths[0]}; export both from one study")
    logits = {role: pooled_logits([arrays[f"{role}_logits"] for arrays in recorded]) for role in JUDGED}
    labels = {role: recorded[0][f"{role}_labels"] for role in JUDGED}
    done = calibrate(logits, labels, spec, tasks, groups_in(recorded[0]))
    return done.calibrator if done else None


def _recorded(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays = safetensors.numpy.load_file(path / PREDICTIONS_FILE)
        needed = [f"{role}_{kind}" for role in JUDGED for kind in ("logits", "labels")]
        return arrays | {name: arrays[name] for name in needed}
    except (OSError, SafetensorError, KeyError) as error:
        raise ExportError(f"{path} holds no predictions to calibrate the mean on: {error}") from error
