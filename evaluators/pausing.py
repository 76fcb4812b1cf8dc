"""A run of the evaluator that trains, on disk between two rungs: all that its training goes on from.

That is what changes as it trains: the candidate's tensors, the optimiser, what hooks have learnt, the states of the
random generators, the steps that were made and what they took. What its start makes again from the same seed is not
written: the order of the examples and the schedule are brought to the step at which it stood.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evaluators.groups import joined, parted
from evaluators.optimisation import build_schedule
from search_space.errors import ExportError

if TYPE_CHECKING:
    from evaluators.trained import TrainedRun


def paused(run: TrainedRun) -> bytes:
    """Return a run as a safetensors file: its tensors, and as JSON whose it is and the numbers that it has."""
    groups = {
        "model": run.attached.state(run.evaluator.backbone.storages),
        "optimiser": run.optimiser.kept(),
        "hooks": run.hooks.kept(),
        "random": run.random,
        "steps": {"seconds": torch.tensor(run.step_seconds, dtype=torch.float64)},
    }
    tensors = {name: one.cpu().contiguous() for name, one in joined(groups).items()}
    numbers = {"step": run.step, "fidelity": run.fidelity, "joules": run.joules, "latency": run.latency}
    return safetensors.torch.save(tensors, {"of": _identity(run), "numbers": json.dumps(numbers)})


def go_on(run: TrainedRun, path: Path) -> bool:
    """Let a run that was just started go on from a file.

    Returns:
        Whether the file is there, whole and this run's; where it is not, nothing was changed.
    """
    found = _read(path, _identity(run))
    if found is None:
        return False
    groups, numbers = found
    try:
        run.attached.load(groups["model"], run.evaluator.backbone.storages)
    except ExportError:  # what a method chose from the data has other shapes this time
        return False
    run.optimiser.take_up(groups["optimiser"])
    run.hooks.take_up(groups["hooks"])
    run.random = groups["random"]
    run.step_seconds = groups["steps"]["seconds"].tolist()
    run.step, run.fidelity, run.joules, run.latency = (
        numbers[name] for name in ("step", "fidelity", "joules", "latency")
    )
    spec = run.evaluator.spec
    run.schedule = build_schedule(run.optimiser, run.own_steps(spec.steps), spec.training.warmup, run.step)
    for _ in range(run.step):
        next(run.order)
    return True


def _read(path: Path, identity: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Return the tensors and the numbers of a file; None where there is none, or it is damaged or another run's."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("of") != identity:
                return None
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError):
        return None
    return parted(tensors), json.loads(about["numbers"])


def _identity(run: TrainedRun) -> str:
    """Return all that must be alike for a run to go on from another: JSON in one order."""
    evaluator, spec = run.evaluator, run.evaluator.spec
    alike = {
        "candidate": run.attached.candidate.sha256,
        "seed": run.seed,
        "at_once": run.at_once,
        "steps": spec.steps,
        "model": spec.model.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
        "tokens": evaluator.folder.sha256,
        "device": evaluator.backbone.device.type,
    }
    return json.dumps(alike, sort_keys=True)
