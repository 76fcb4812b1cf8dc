"""An exported candidate: a folder with everything that is not the backbone's, and the way back to equal outputs.

paretune.json       what was trained, on which model and data, with which result; the candidate, exactly
state.safetensors   every tensor that is not the backbone's, by exact name
calibration.json    the calibrator, fitted on data that training did not see
conformal.json      the thresholds of conformal sets, fitted on the same data
predictions.safetensors    raw logits and labels of the validation and the calibration split; validation calibrated
adapter_config.json, adapter_model.safetensors    what `peft.PeftModel.from_pretrained` reads; single methods only

A merged one has the whole model in place of the state and of peft's files: config.json, model.safetensors and the
tokenizer, as `from_pretrained` of transformers reads them.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from torch import Tensor, nn

from calibration.calibrators import Calibrator
from calibration.conformal import Method
from calibration.sets import Fits
from calibration.softmax import softmax
from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach, own_weights
from evaluators.backbone import Backbone, head_of, hub_name, load
from evaluators.evaluation import STATE_FILE
from evaluators.fits import read_fits
from evaluators.hooks import hook_of, load_trained
from evaluators.merged import load_merged
from evaluators.model_copies import copy_of
from evaluators.spec import ModelSpec
from evaluators.task_calibrator import TaskCalibrator
from evaluators.tasks import TaskColumns
from search_space.candidate import Candidate, Part
from search_space.carrying import is_per_task
from search_space.errors import ExportError, did_you_mean, one_of
from search_space.notation import write_parts
from search_space.placement import Anatomy
from search_space.registry import method
from search_space.space import resolve
from search_space.spread import in_one_size

_PATTERNS = {"r": "rank_pattern", "alpha": "alpha_pattern"}
"""What a knob's values for single modules are called in peft's configurations, where they have it."""

_PATTERNED = ("lora", "lora_plus", "lora_fa", "loha", "lokr", "delora")
"""Methods that reload by such patterns. HiRA's configuration has them too, and makes all of one rank in peft 0.21;
PiSSA's residuals are not those of the rank that a module has."""

ABOUT_FILE = "paretune.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Predictor:
    """A reloaded candidate.

    Attributes:
        attached: The candidate on its backbone.
        backbone: What it stands on.
        classes: Names of the classes.
        max_length: Most tokens of a text.
        fit: The calibrator of its logits; None where it is not calibrated.
        sets: The conformal fits of its calibrated probabilities, by method; empty where the export has none.
        task: Number of its task, where the candidate was trained on several.
        columns: The columns of the model's logits that are its classes.
    """

    attached: Attached
    backbone: Backbone
    classes: tuple[str, ...]
    max_length: int
    fit: Calibrator | None
    sets: Fits = field(default_factory=dict)
    task: int | None = None
    columns: tuple[int, int | None] = (0, None)

    @property
    def model(self) -> nn.Module:
        """Takes the tokenizer's output, gives `.logits` of shape [batch, classes]."""
        return self.attached.model

    def logits(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return raw logits of shape [texts, classes]."""
        if not texts:
            return np.empty((0, len(self.classes)))
        with torch.inference_mode():
            return self.own(self.model(**self.inputs(texts)).logits)

    def own(self, logits: Tensor) -> NDArray[np.float64]:
        """Return the columns of its classes, out of what the model gives."""
        return np.asarray(logits[:, slice(*self.columns)].double().cpu().numpy())

    def inputs(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        """Return what the model takes of some texts, at least one."""
        columns = [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
        limits = {"truncation": True, "max_length": self.max_length, "padding": True}
        inputs = self.backbone.tokenizer(*columns, **limits, return_tensors="pt")
        names = ("input_ids", "attention_mask", *(("token_type_ids",) if len(columns) == 2 else ()))
        found = {name: inputs[name].to(self.backbone.device) for name in names if name in inputs}
        if self.task is not None:
            found["task_ids"] = torch.full((len(texts),), self.task, device=self.backbone.device)
        return found

    def probabilities(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return calibrated probabilities of shape [texts, classes]."""
        logits = self.logits(texts)
        return calibrated_probabilities(logits, self.fit)

    def answers(
        self, texts: Sequence[str] | Sequence[tuple[str, str]], method: Method = "lac"
    ) -> list[tuple[str, ...]]:
        """Return for each text the classes of its conformal set, which holds the true one as often as was promised.

        Raises:
            ExportError: The export has no such sets.
        """
        fit = self.sets.get(method)
        if fit is None:
            made = [name for name, one in self.sets.items() if one is not None]
            raise ExportError(
                f"this export has no conformal sets of method {method!r}; it has {one_of(made) or 'none'}. "
                "They need 1 / alpha - 1 calibration rows"
            )
        if not texts:
            return []
        inside = fit.sets(self.probabilities(texts))
        return [tuple(name for name, held in zip(self.classes, row, strict=True) if held) for row in inside]


def calibrated_probabilities(logits: NDArray[np.float64], fit: Calibrator | None) -> NDArray[np.float64]:
    """Return probabilities of shape [texts, classes], by the fitted calibrator where there is one."""
    return softmax(logits) if fit is None or not len(logits) else np.asarray(fit.probabilities(logits))


def load_exported(
    folder: str | Path, model: str | None = None, backbone: Backbone | None = None, task: str | None = None
) -> Predictor:
    """Load an exported candidate, single or hybrid.

    Args:
        folder: What `paretune export` wrote, merged or not.
        model: Name of the backbone to stand on; the one that it was trained on when None.
        backbone: One that is loaded already, to be shared with other candidates; it is not changed.
        task: Which of several tasks to predict, where it was trained on several.

    Raises:
        ExportError: The folder is not an export, or not one of this backbone; or the task is not one of its own; or a
            backbone is given and it is merged into its own.
    """
    folder = Path(folder)
    about = read_about(folder)
    number, own = _task(folder, about, task)
    if about.get("merged") and (model or backbone):
        raise ExportError(f"{folder} is merged into its own weights and stands on no other; export it without --merged")
    if about.get("merged"):
        own_model, merged = ModelSpec.model_validate(about["model"]), Candidate.from_json(about["candidate"])
        attached, backbone = load_merged(folder, own_model, merged, *_sizes(about))
    else:
        attached, backbone = _on_backbone(folder, about, model, backbone)
    fit, sets = read_fits(folder, own.name if own else "")
    if own is None or number is None:
        return Predictor(attached, backbone, tuple(about["classes"]), about["max_length"], fit, sets)
    classes = tuple(name.removeprefix(f"{own.name}/") for name in about["classes"][own.start : own.stop])
    fit = fit.of(own.name) if isinstance(fit, TaskCalibrator) else fit
    columns = own.start, own.stop
    return Predictor(attached, backbone, classes, about["max_length"], fit, sets, number, columns)


def _on_backbone(
    folder: Path, about: Mapping[str, Any], model: str | None, backbone: Backbone | None
) -> tuple[Attached, Backbone]:
    spec = ModelSpec.model_validate(about["model"] | ({"name": model} if model else {}))
    backbone = backbone or load(spec, *_sizes(about))
    candidate = Candidate.from_json(about["candidate"])
    attached = attach(backbone.model, anatomy_of(backbone.model), candidate, about["seed"])
    load_trained(attached, _read_state(folder), backbone.storages)
    return attached, backbone


def _sizes(about: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many classes of all tasks and how many tasks."""
    return len(about["classes"]), max(1, len(about.get("tasks", ())))


def tasks_in(about: Mapping[str, Any]) -> tuple[TaskColumns, ...]:
    """Return the tasks that an export was trained on; none where it was one."""
    return tuple(TaskColumns(**one) for one in about.get("tasks", ()))


def _task(folder: Path, about: Mapping[str, Any], wanted: str | None) -> tuple[int | None, TaskColumns | None]:
    tasks = tasks_in(about)
    names = [one.name for one in tasks]
    if wanted is None and not tasks:
        return None, None
    if wanted not in names:
        known = f"it was trained on {one_of(names)}; say which" if names else "it was trained on one task; name none"
        raise ExportError(f"{folder}: task {wanted!r}: {known}{did_you_mean(str(wanted), names)}")
    return names.index(wanted), tasks[names.index(wanted)]


def read_about(folder: Path) -> dict[str, Any]:
    """Return what an export says of itself. Raises ExportError."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} is not an export of Paretune: {error}") from error
    if not isinstance(about, dict):
        raise ExportError(f"{folder} is not an export of Paretune: {ABOUT_FILE} holds no object")
    if about.get("schema_version") != SCHEMA_VERSION:
        raise ExportError(f"{folder} has schema_version {about.get('schema_version')!r}, not {SCHEMA_VERSION}")
    return about


def is_peft(candidate: Candidate) -> bool:
    """Whether peft can hold this candidate: one part of a type that peft knows, ours included.

    Of prefixes peft knows only those on all layers, without gates; of sizes that differ between layers, ranks and
    alphas.
    """
    part, *others = candidate.parts
    rule = method(part.method)
    spread = {name for name, value in part.knobs if isinstance(value, tuple)}
    if is_per_task(part) or not spread <= _patterns(part.method):
        return False
    if rule.peft_type == "MTL_LORA":  # peft hands the number of the task to its own types alone
        return False
    return not others and bool(rule.peft_type) and (rule.route != "prompt" or _is_plain_prompt(part))


def _patterns(name: str) -> set[str]:
    """Return the knobs of a method for which peft's configuration can name a value for each module."""
    rule = method(name)
    if name not in _PATTERNED:
        return set()
    fields = PEFT_TYPE_TO_CONFIG_MAPPING[rule.peft_type].__dataclass_fields__
    return {knob for knob, pattern in _PATTERNS.items() if pattern in fields}


def _arguments(part: Part, anatomy: Anatomy) -> dict[str, Any]:
    """Return the arguments of peft's configuration, with sizes that differ between layers as patterns."""
    pieces = in_one_size(part, anatomy) if method(part.method).route == "inject" else (part,)
    each = [dict(method(part.method).config(one, resolve(one, anatomy))) for one in pieces]
    arguments = dict(each[0])
    if len(each) > 1:
        arguments["target_modules"] = [name for one in each for name in one["target_modules"]]
    for knob, pattern in _PATTERNS.items():
        if isinstance(dict(part.knobs).get(knob), tuple):
            arguments[pattern] = {
                name: piece[knob] for piece, one in zip(pieces, each, strict=True) for name in one["target_modules"]
            }
    return arguments


def _is_plain_prompt(part: Part) -> bool:
    return part.placement.layers.kind == "all" and not method(part.method).gated


def as_peft_model(
    backbone: Backbone, anatomy: Anatomy, candidate: Candidate, state: Mapping[str, Tensor], name: str
) -> Any:
    """Return a PeftModel that holds a trained candidate, head included, ready for `save_pretrained`.

    Args:
        backbone: What it was trained on.
        anatomy: The backbone's.
        candidate: One that `is_peft`.
        state: Its trained state.
        name: The base model's name in `adapter_config.json`.

    Raises:
        ExportError: peft cannot hold the candidate, or the state does not fit.
    """
    if not is_peft(candidate):
        raise ExportError(
            f"peft cannot hold {write_parts(candidate)}: it reads one part of a type that it knows; "
            "evaluators.exported.load_exported reads all, and paretune export --merged what merges"
        )
    part = candidate.parts[0]
    rule = method(part.method)
    arguments = _arguments(part, anatomy)
    heads = list(head_of(backbone.model))
    # peft's model for text hands its inputs on by position, which models of images and sound do not take.
    task = "SEQ_CLS" if "input_ids" in inspect.signature(backbone.model.forward).parameters else None
    config = PEFT_TYPE_TO_CONFIG_MAPPING[rule.peft_type](task_type=task, **arguments)
    if rule.route == "inject":
        config.modules_to_save = heads
    base = copy_of(backbone.model)
    if rule.rewrites:
        own_weights(base, resolve(part, anatomy).names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of renaming the base model: a folder of this machine means nothing elsewhere
        model = get_peft_model(base, config)
    config.base_model_name_or_path = hub_name(name)
    renamed = _renamed(state, rule.route, heads)
    hook_of(model, "default", part).fit_to(renamed)
    unknown = model.load_state_dict(renamed, strict=False).unexpected_keys
    if unknown:
        raise ExportError(f"{part.method} does not fit peft's layout: {unknown[:3]}")
    model.eval()
    return model


def reload_peft(backbone: Backbone, folder: Path) -> Any:
    """Load a PEFT folder as any user of peft would, onto a copy of the backbone."""
    base = copy_of(backbone.model)
    if getattr(PeftConfig.from_pretrained(str(folder)), "init_lora_weights", None) == "olora":
        for parameter in base.parameters():  # peft writes into them
            parameter.data = parameter.data.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of modules that are not linear, which some methods are for
        model = PeftModel.from_pretrained(base, str(folder))
    model.eval()
    return model


def _renamed(state: Mapping[str, Tensor], route: str, heads: Sequence[str]) -> dict[str, Tensor]:
    """Translate our names to those of a PeftModel whose adapter is called `default`."""
    renamed = {}
    for name, tensor in state.items():
        words = ["default" if word == "part0" else word for word in name.split(".")]
        if route == "inject":
            if words[0] in heads:
                words[1:1] = ["modules_to_save", "default"]
            words[:0] = ["base_model", "model"]
        renamed[".".join(words)] = tensor
    return renamed


def _read_state(folder: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(folder / STATE_FILE)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{folder} has no readable state: {error}") from error
