"""What a study needs before its first trial: tokens on disk, the model's anatomy, the bound space and its limits."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.costing import Coster, meta_coster
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import OF_SUBGROUPS, Cost
from evaluators.spec import ModelSpec
from evaluators.tasks import TaskColumns
from evaluators.tokens import TokenFolder, write_tokens
from evaluators.tracing import TracingProcess
from orchestrator.feasibility import require_trainable
from orchestrator.front import reference_point
from orchestrator.home import Home
from orchestrator.spec import StudySpec, is_about, meters_energy
from orchestrator.step_budget import check_steps
from orchestrator.storage import StudyStore
from search_space.budgets import OF_MEMORY, within
from search_space.candidate import Candidate
from search_space.errors import DataError, PlacementError, UnsupportedError
from search_space.fitting import Fitting, require_fitting
from search_space.points import Points
from search_space.space import Space, at_defaults, bind
from search_space.tally import Tally

_PACKAGES = (
    "paretune",
    "torch",
    "transformers",
    "peft",
    "datasets",
    "optuna",
    "ray",
    "mlflow",
    "scikit-learn",
    "numpy",
)


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run.

    Attributes:
        space: What is searched, bound to the model.
        coster: Tells costs before training.
        limits: Hard limits by metric.
        evaluator: What the actors build.
        classes: Names of the classes, of all tasks.
        points: The only candidates that can be trained, where a table is searched.
        attention: What was measured of its implementations; None where nothing was.
        tasks: Whose the classes are, where there are several tasks.
    """

    space: Space
    coster: Coster
    limits: dict[str, float]
    evaluator: EvaluatorSpec
    classes: tuple[str, ...]
    points: Points | None = None
    attention: dict[str, Any] | None = None
    tasks: tuple[TaskColumns, ...] = ()

    @property
    def most_classes(self) -> int:
        """Classes of the task that has the most, at least 2: no task is guessed worse."""
        return max((2, *(one.stop - one.start for one in self.tasks))) if self.tasks else max(2, len(self.classes))

    @cached_property
    def tally(self) -> Tally:
        """Counts trainable parameters, fast."""
        return Tally(self.coster.count, self.space.anatomy)

    def count(self, candidate: Candidate) -> int:
        """Return the trainable parameters of a candidate, fast.

        What is not a point of a table that is searched has no count there, so nothing is added up from it.

        Raises:
            UnsupportedError, PlacementError: It cannot be attached.
        """
        return self.tally(candidate) if self.points is None else self.coster.count(candidate)

    def fitting(self, seed: int, refused: Collection[str] = ()) -> Fitting:
        """Return what draws candidates that fit the budget of trainable parameters.

        Args:
            seed: Decides what is drawn.
            refused: Identities of architectures that are not to be drawn.
        """
        return Fitting(self.space, self.tally, self.limits.get("trainable_params"), seed, refused)

    def cost(self, candidate: Candidate, factor: float = 1.0) -> Cost:
        """Return the cost of a candidate, its steps divided where the study says so and the limit of memory wants it.

        Args:
            candidate: What would be trained.
            factor: What predicted memory is multiplied with.

        Raises:
            UnsupportedError, PlacementError: It cannot be attached.
        """
        limit = self.limits.get("peak_memory_bytes")
        return self.coster.cost(candidate, None if limit is None else limit / factor)

    def affordable(self, candidate: Candidate) -> Cost | None:
        """Return the cost of a candidate; None where it cannot be attached or is known to be over a limit."""
        try:
            cost = self.cost(candidate)
        except (UnsupportedError, PlacementError):
            return None
        return cost if within(self.limits, cost.values) else None


def prepare(
    spec: StudySpec,
    folder: Path,
    attention: dict[str, Any] | None = None,
    tables: Path | None = None,
    process: TracingProcess | None = None,
) -> Prepared:
    """Read the data, tokenise it once into `folder`, and look at the model without loading its weights.

    Args:
        spec: The study.
        folder: Its folder.
        attention: What was measured of the implementations of attention when the study began; None measures it.
        tables: A folder that keeps what layers were found to cost; None keeps nothing.
        process: Finds what is not known there; None does it in this process. It begins while the data is read.

    Raises:
        SpecError: The budget of steps does not pay for a candidate's first rung.
        DataError: The data or the model cannot be read.
        PlacementError, UnsupportedError: The space names what the model does not have, or the study is about energy
            and the device has no meter.
        EmptySpaceError: Nothing of the space can be trained within the limits that are known beforehand.
    """
    if meters_energy(spec.objectives, spec.budgets):
        _require_meter(spec)
    if process is not None and spec.synthetic is None and not (folder / "tokens").exists():
        process.start()
    tokens = _tokens(spec, folder / "tokens") if spec.synthetic is None else None
    if tokens is not None:
        _require_subgroups(spec, tokens)
    attention = _attention(spec, tokens, attention)
    model = model_with(spec.model, attention)
    coster = _coster(spec, model, tokens, tables, process)
    space = bind(spec.space, coster.anatomy)
    steps = full_steps(spec, tokens.examples["train"] if tokens else 1000)
    check_steps(spec, steps)
    evaluator = EvaluatorSpec(
        model=model,
        training=spec.training,
        calibration=spec.calibration,
        tokens=str(folder / "tokens"),
        steps=steps,
        cpus=spec.resources.cpus,
        synthetic=spec.synthetic,
        rung_rows=spec.search.early_stopping.rows,
        rung_latency=is_about(("latency_ms",), spec.objectives, spec.budgets),
    )
    classes = tokens.classes if tokens else ("a", "b")
    limits = spec.budgets.limits(coster.parameters)
    limits = limits if tokens is None else _on_device(limits, model)
    tasks = tokens.tasks if tokens else ()
    prepared = Prepared(space, coster, limits, evaluator, classes, attention=attention, tasks=tasks)
    _require_trainable(spec, prepared)
    return prepared


def _require_trainable(spec: StudySpec, prepared: Prepared) -> None:
    """Refuse a space that holds nothing for this model and these budgets, as far as that is known before training."""
    if "trainable_params" in prepared.limits:
        require_fitting(prepared.space, prepared.tally, prepared.limits["trainable_params"])
    factor = spec.budgets.memory_factor

    def cost(candidate: Candidate) -> Cost:
        return prepared.cost(candidate, factor)

    device = _device_of_memory(prepared.limits, prepared.evaluator.model) if spec.synthetic is None else ""
    limits, fitting = prepared.limits, prepared.fitting(spec.search.seed)
    require_trainable(prepared.space, fitting, cost, limits, factor=factor, device=device)


def _require_meter(spec: StudySpec) -> None:
    from evaluators.backbone import choose_machine
    from evaluators.energy import open_meter

    try:
        open_meter(choose_machine(spec.model).device)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}; take budgets.energy and training_joules out of this study") from None


def _on_device(limits: dict[str, float], model: ModelSpec) -> dict[str, float]:
    """Return limits on memory as limits on tensors: on CUDA the context and the rest of the reserve go off."""
    from evaluators.device_memory import most_tensor_bytes

    device = _device_of_memory(limits, model)
    return limits | {name: float(most_tensor_bytes(limits[name], device)) for name in OF_MEMORY if name in limits}


def _device_of_memory(limits: dict[str, float], model: ModelSpec) -> str:
    """Return the type of the device whose memory is limited; empty where none is."""
    from evaluators.backbone import choose_machine

    return choose_machine(model).device.type if any(name in limits for name in OF_MEMORY) else ""


def full_steps(spec: StudySpec, examples: int) -> int:
    """Return the optimiser steps of full training."""
    per_epoch = max(1, examples // min(spec.training.batch_size, examples))
    return spec.training.steps or max(1, round(spec.training.epochs * per_epoch))


def note_facts(store: StudyStore, prepared: Prepared) -> None:
    """Keep what readers of the study need without its model, and fix the reference point before the search."""
    store.note(
        "backbone", {"parameters": prepared.coster.parameters, "architecture": prepared.space.anatomy.architecture}
    )
    store.note("classes", list(prepared.classes))
    store.note("steps", prepared.evaluator.steps)
    store.note("space_size", prepared.space.size)
    store.note("limits", prepared.limits)
    store.note("attention", prepared.attention)
    store.note("environment", environment() | {"attention": prepared.attention})
    if store.noted("reference_point") is None:
        point = reference_point(
            store.spec, prepared.limits, prepared.most_classes, prepared.coster.parameters, _full_cost(prepared.coster)
        )
        store.note("reference_point", point)


def environment() -> dict[str, Any]:
    """Return what a result depends on beside the study: versions and the machine, without names of people or hosts."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    machine = {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}
    return {"python": platform.python_version(), "packages": versions, **machine}


def model_of(store: StudyStore) -> ModelSpec:
    """Return the model of a study that was started, with the attention that it was trained with."""
    return model_with(store.spec.model, store.noted("attention"))


def model_with(model: ModelSpec, attention: Mapping[str, Any] | None) -> ModelSpec:
    """Return a model with the attention that was measured to be the fastest, if any was."""
    return model.model_copy(update={"attention": attention["chosen"]}) if attention else model


def study_home(home: Home, name: str) -> Path:
    """Return the folder of a study, made if it is not there."""
    folder = home.create().study(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require_subgroups(spec: StudySpec, tokens: TokenFolder) -> None:
    """Refuse an objective about subgroups of which none has enough examples of validation to be scored."""
    asked = [one.metric for one in spec.objectives if one.metric in OF_SUBGROUPS]
    names = tokens.read("validation").subgroups if asked else None
    if names is None:
        return
    least, (_, counts) = spec.calibration.least_subgroup, np.unique(names, return_counts=True)
    if counts.max() < least:
        raise DataError(
            f"objectives: {asked[0]} needs {least} examples of validation in a subgroup, and there are "
            f"{counts.max()} in the largest of {len(counts)}; lower calibration.least_subgroup or hold out more"
        )


def _tokens(spec: StudySpec, folder: Path) -> TokenFolder:
    try:
        return TokenFolder.open(folder)
    except FileNotFoundError:
        from evaluators.backbone import end_token, load_tokenizer
        from evaluators.data import read_task

        tokenizer, end = load_tokenizer(spec.model), end_token(spec.model)
        return write_tokens(read_task(spec.task), tokenizer, spec.training, folder, end)


def _attention(spec: StudySpec, tokens: TokenFolder | None, known: dict[str, Any] | None) -> dict[str, Any] | None:
    if known is not None or tokens is None or spec.model.attention != "auto":
        return known
    from evaluators.attention import fastest_attention, measured_apart
    from evaluators.backbone import choose_machine

    threads = max(1, round(spec.resources.cpus))
    if choose_machine(spec.model).device.type != "cpu":  # this process lives as long as the study
        return measured_apart(spec.model, spec.training, tokens.folder, threads)
    return fastest_attention(spec.model, spec.training, tokens.read("train"), len(tokens.classes), threads).to_json()


def _coster(
    spec: StudySpec,
    model: ModelSpec,
    tokens: TokenFolder | None,
    tables: Path | None = None,
    process: TracingProcess | None = None,
) -> Coster:
    if tokens is None:
        from evaluators.synthetic import SyntheticCoster

        return SyntheticCoster(len(spec.task.sources))
    classes, tasks = len(tokens.classes), max(1, len(tokens.tasks))
    evaluated = max(tokens.longest[role] for role in ("train", "validation", "calibration"))  # test decides nothing
    return meta_coster(model, classes, spec.training, tokens.longest["train"], tasks, evaluated, tables, process)


def _full_cost(coster: Coster) -> Cost | None:
    try:
        return coster.cost(at_defaults("full"))
    except (UnsupportedError, PlacementError):
        return None
