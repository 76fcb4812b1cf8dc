"""The export folder: the trained candidate with its calibrator, its card, its recipe and a script that trains it again.

It is made aside, reloaded, compared with the recorded logits, and only then given its name. A merged one holds the
whole model as a plain checkpoint of transformers, in place of what peft and Paretune put on a backbone.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.sets import fit_sets, sets_to_json
from calibration.spec import CalibrationSpec
from evaluators import exported
from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import Backbone, load
from evaluators.evaluation import CALIBRATION_FILE, PREDICTIONS_FILE, STATE_FILE
from evaluators.fits import sets_file
from evaluators.hooks import load_trained
from evaluators.measurement import predict_logits
from evaluators.merged import TOLERANCE as MERGED
from evaluators.merged import in_float32, merged_candidate, reload_merged, require_merged, save_merged
from evaluators.task_switch import take_tasks
from evaluators.tasks import TaskColumns
from evaluators.tokens import Batch, TokenFolder
from orchestrator.export.card import model_card
from orchestrator.export.script import TRAIN_SCRIPT
from orchestrator.front import Front, front_of_study
from orchestrator.home import Home
from orchestrator.preparation import model_of
from orchestrator.storage import StudyStore
from orchestrator.trial import Trial
from search_space.errors import ExportError
from search_space.notation import write

TOLERANCE = 1e-5
ROUNDED = 0.05
"""How far logits may lie apart where they are reloaded in another type than they were recorded in: a share of the
largest of them, which counts as one at least. peft gives the head the backbone's type; what is merged is float32."""


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        folder: Where.
        trial: The search trial that was chosen.
        trained: The trial whose weights were taken: its first finalist, or itself.
        peft: Whether `peft.PeftModel.from_pretrained` reads the folder.
        difference: Largest difference between recorded and reloaded logits.
        merged: Whether it is a plain checkpoint, which `from_pretrained` of transformers reads.
    """

    folder: Path
    trial: int
    trained: str
    peft: bool
    difference: float
    merged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        return {**self.__dict__, "folder": str(self.folder)}


@dataclass(frozen=True)
class _Source:
    """What is exported.

    Attributes:
        store: Its study.
        front: Of that study.
        trial: The search trial that was chosen.
        trained: The trial whose weights are taken.
        folder: Where they are.
        tokens: What it was trained on.
    """

    store: StudyStore
    front: Front
    trial: Trial
    trained: Trial
    folder: Path
    tokens: TokenFolder


def export(store: StudyStore, home: Home, number: int | None, to: Path, merged: bool = False) -> Export:
    """Export a trial; the recommended one when no number is given.

    Args:
        store: Of the study.
        home: Where its files are.
        number: Of a trial of the search.
        to: The folder to make.
        merged: Whether to merge it into the backbone's weights, for transformers alone to read.

    Raises:
        ExportError: There is nothing to export, the target exists, or the export does not reload to equal outputs.
        UnsupportedError: It is to be merged and cannot be.
    """
    if to.exists():
        raise ExportError(f"{to} exists; choose another folder or remove it")
    front = front_of_study(store)
    trial = _chosen(store, front, number)
    trained = _trained(store, trial)
    folder = home.study(store.name) / trained.phase / str(trained.number)
    if not (folder / STATE_FILE).exists():
        raise ExportError(f"trial {trial.number} left no weights in {folder}; was it trained on another machine?")
    source = _Source(store, front, trial, trained, folder, TokenFolder.open(home.study(store.name) / "tokens"))
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}."))
    try:
        difference = _fill(aside, source, merged)
        for path in (aside, *aside.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        aside.rename(to)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    peft = not merged and exported.is_peft(trial.candidate)
    return Export(to, trial.number, trained.key, peft, difference, merged)


def _chosen(store: StudyStore, front: Front, number: int | None) -> Trial:
    if number is None:
        if front.pick is None:
            raise ExportError(f"study {store.name!r} has no pick yet; name a trial with --trial")
        number = front.pick.number
    trial = store.trial("search", number)
    if trial.state != "complete":
        raise ExportError(f"trial {number} is {trial.state}, and only complete trials have weights to export")
    return trial


def _trained(store: StudyStore, trial: Trial) -> Trial:
    """Return the first finalist of a trial, chosen by its seed alone so that nothing is selected, or the trial."""
    finalists = [
        one for one in store.trials("finalists") if one.origin == str(trial.number) and one.state == "complete"
    ]
    return min(finalists, key=lambda one: one.seed, default=trial)


def _fill(aside: Path, source: _Source, merged: bool) -> float:
    """Write everything into a folder. Returns the largest difference of its reloaded logits to the recorded ones."""
    store, trained, tokens = source.store, source.trained, source.tokens
    backbone = load(model_of(store), len(tokens.classes), max(1, len(tokens.tasks)))
    if merged:
        _save_merged(aside, backbone, source)
    elif exported.is_peft(trained.candidate):
        _save_peft(aside, backbone, trained, source.folder, store.spec.model.name)
    for name in (*(() if merged else (STATE_FILE,)), PREDICTIONS_FILE, CALIBRATION_FILE):
        if (source.folder / name).exists():
            shutil.copyfile(source.folder / name, aside / name)
    recorded = safetensors.numpy.load_file(source.folder / PREDICTIONS_FILE)
    _write_sets(aside, recorded, store.spec.calibration, tokens.tasks)
    about = _about(store, trained, tokens) | ({"merged": True} if merged else {})
    (aside / exported.ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")
    (aside / "train.py").write_text(TRAIN_SCRIPT)
    (aside / "README.md").write_text(model_card(store, source.front, source.trial, trained, tokens, merged))
    return _verify(aside, backbone, source, recorded["validation_logits"], merged)


def _write_sets(
    aside: Path, recorded: Mapping[str, NDArray[Any]], spec: CalibrationSpec, tasks: Sequence[TaskColumns]
) -> None:
    """Fit the conformal sets on the calibration split, of each task by itself, and write them beside the calibrator."""
    logits, labels = recorded["calibration_logits"], recorded["calibration_labels"]
    groups = recorded.get("calibration_groups")
    rows = {
        one.name: (one.own(logits, labels), one.own_labels(labels), one.own_groups(groups, labels)) for one in tasks
    } or {"": (logits, labels, groups)}
    for task, (own, own_labels, together) in rows.items():
        fits = fit_sets(own, own_labels, spec.alpha, kind=spec.method, folds=spec.folds, groups=together)
        (aside / sets_file(task)).write_text(json.dumps(sets_to_json(fits), indent=1) + "\n")


def _about(store: StudyStore, trained: Trial, tokens: TokenFolder) -> dict[str, Any]:
    spec = store.spec
    assert trained.score is not None
    return {
        "schema_version": exported.SCHEMA_VERSION,
        "study": store.name,
        "trial": trained.key,
        "notation": write(trained.candidate),
        "candidate": trained.candidate.to_json(),
        "sha256": trained.candidate.sha256,
        "seed": trained.seed,
        "model": model_of(store).model_dump(mode="json", exclude_none=True),
        "task": spec.task.model_dump(mode="json", exclude_none=True),
        "training": spec.training.model_dump(mode="json", exclude_none=True) | _divided(trained),
        "calibration": spec.calibration.model_dump(mode="json"),
        "steps": store.noted("steps"),
        "classes": list(tokens.classes),
        **({"tasks": [asdict(one) for one in tokens.tasks]} if tokens.tasks else {}),
        "max_length": spec.training.max_length,
        "data_sha256": tokens.sha256,
        "validation": trained.score.to_json(),
        "test": trained.test.to_json() if trained.test else None,
        "environment": store.noted("environment"),
    }


def _divided(trained: Trial) -> dict[str, int]:
    """Return into how many parts the steps of a trial were divided, where that was chosen for it."""
    parts = trained.cost.accumulation if trained.cost else None
    return {"accumulate": parts} if parts else {}


def _save_peft(aside: Path, backbone: Backbone, trained: Trial, source: Path, name: str) -> None:
    state = safetensors.torch.load_file(source / STATE_FILE)
    anatomy = anatomy_of(backbone.model)
    model = exported.as_peft_model(backbone, anatomy, trained.candidate, state, name)
    model.save_pretrained(str(aside), safe_serialization=True)


def _save_merged(aside: Path, backbone: Backbone, source: _Source) -> None:
    """Merge in float32, see that the logits stay, and write the checkpoint."""
    require_merged(source.trained.candidate, backbone.model)
    whole, trained = in_float32(backbone), source.trained
    attached = attach(whole.model, anatomy_of(whole.model), trained.candidate, trained.seed)
    load_trained(attached, safetensors.torch.load_file(source.folder / STATE_FILE), whole.storages)
    before = _validation_logits(attached.model, source, backbone)
    merged = merged_candidate(attached)
    difference = _largest_difference(_validation_logits(merged, source, backbone), before)
    if not difference <= MERGED:
        raise ExportError(f"merging changes its logits by {difference:.2g}; export it without --merged")
    save_merged(merged, whole, source.tokens.classes, aside)


def _verify(aside: Path, backbone: Backbone, source: _Source, recorded: NDArray[Any], merged: bool) -> float:
    """Reload the folder in every way that it offers, and compare with what was recorded in training."""
    task = source.tokens.tasks[0].name if source.tokens.tasks else None
    loaders: dict[str, Callable[[], Any]] = {"paretune": lambda: exported.load_exported(aside, task=task).model}
    if merged:
        loaders["transformers"] = lambda: _plain(aside, backbone.device)
    elif exported.is_peft(source.trained.candidate):
        loaders["peft"] = lambda: exported.reload_peft(backbone, aside)
    largest = 0.0
    for name, loader in loaders.items():
        difference = _largest_difference(_validation_logits(loader(), source, backbone), recorded)
        in_own_type = backbone.dtype == torch.float32 or (name == "paretune" and not merged)
        exact = MERGED if merged else TOLERANCE
        if not difference <= (exact if in_own_type else _rounding(recorded)):
            raise ExportError(f"reloaded by {name}, its logits differ from the recorded ones by {difference:.2g}")
        largest = max(largest, difference)
    return largest


def _rounding(recorded: NDArray[Any]) -> float:
    """Return how far apart rounding may bring logits: as far as 8 bits of all that they are added up from do."""
    return ROUNDED * max(1.0, float(np.abs(recorded[np.isfinite(recorded)]).max()))


def _plain(aside: Path, device: torch.device) -> nn.Module:
    """Reload a merged checkpoint by transformers; what batches say of tasks is taken off before it."""
    model: nn.Module = reload_merged(aside).to(device)
    take_tasks(model)
    return model


def _validation_logits(model: nn.Module, source: _Source, backbone: Backbone) -> NDArray[np.float64]:
    tokens, size = source.tokens, source.store.spec.training.evaluation_batch_size
    forward = partial(_forward, model)
    return predict_logits(forward, tokens.read("validation"), len(tokens.classes), size, backbone.device)


def _largest_difference(logits: NDArray[Any], recorded: NDArray[Any]) -> float:
    known = np.isfinite(logits) | np.isfinite(recorded)  # the columns of other tasks are -inf in both
    return float(np.abs(logits[known] - recorded[known]).max())


def _forward(model: nn.Module, _positions: list[int], batch: Batch) -> Tensor:
    logits: Tensor = model(**batch.inputs).logits
    return logits
