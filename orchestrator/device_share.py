"""How much of a GPU a trial is given: as many trials share one as their memory, predicted, has room for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from evaluators.score import Cost
from orchestrator.preparation import Prepared
from orchestrator.spec import ResourcesSpec, StudySpec
from search_space.budgets import within
from search_space.candidate import Candidate
from search_space.errors import PlacementError, UnsupportedError
from search_space.registry import method
from search_space.space import at_defaults

_LOOKS = 16
_GRAIN = 10_000
"""Ray counts in parts of so many: a share is rounded down to them, so that k of 1/k fit one device."""


def share_of(needed: float, memory: float, most: int) -> float:
    """Return the share of a GPU that a trial is given: 1/k, for the most trials k that fit beside each other.

    Args:
        needed: Bytes of the device that a trial may need, its context included; above 0.
        memory: Bytes of the device.
        most: Trials that there is anything else for, such as CPUs.

    Returns:
        1 where not even two fit, and where one does not: then it is tried alone.
    """
    trials = max(1, min(int(memory // needed), most))
    return math.floor(_GRAIN / trials) / _GRAIN


def resources_of(spec: StudySpec, prepared: Prepared) -> ResourcesSpec:
    """Return the resources of a study, with `gpus: auto` made a number: 0 where its device is no CUDA GPU."""
    resources = spec.resources
    if resources.gpus != "auto":
        return resources
    return resources.model_copy(update={"gpus": 0.0 if spec.synthetic is not None else _share(spec, prepared)})


def _share(spec: StudySpec, prepared: Prepared) -> float:
    import torch

    from evaluators.backbone import choose_machine

    if choose_machine(spec.model).device.type != "cuda":
        return 0.0
    devices = [torch.cuda.get_device_properties(one).total_memory for one in range(torch.cuda.device_count())]
    needed = most_needed_bytes(spec, prepared) * spec.resources.together
    return share_of(needed, min(devices), trials_for_a_device(spec.resources, os.cpu_count() or 1, len(devices)))


def trials_for_a_device(resources: ResourcesSpec, cpus: int, devices: int) -> int:
    """Return how many trials there are for one of some GPUs, at least 1: as the CPUs and the study's limit let."""
    room = int(cpus / resources.cpus)
    return max(1, math.ceil(min(room, resources.concurrency or room) / devices))


def most_needed_bytes(spec: StudySpec, prepared: Prepared) -> int:
    """Return the bytes of a CUDA device that the trial with the largest predicted peak needs.

    The budget of memory says it where there is one, of what is searched; else some candidates are drawn. The references
    are trained whatever the budget says, so they count as they are. The backbone stays for the next trial: beside what
    trains weights of its own it is there twice.
    """
    from evaluators.backbone import choose_machine
    from evaluators.device_memory import needed_bytes

    factor = spec.budgets.memory_factor
    costs = [*_costs(prepared, map(at_defaults, spec.search.references), factor)]
    if spec.budgets.memory is None:
        drawn = _costs(prepared, _drawn(spec, prepared), factor)
        costs += (pair for pair in drawn if within(prepared.limits, pair[1].values))
    weights = prepared.coster.parameters * choose_machine(spec.model).dtype.itemsize
    peaks = ((cost.peak_memory_bytes or 0) + weights * _has_weights(one) for one, cost in costs)
    return max(needed_bytes(max(peaks, default=0), "cuda", factor), spec.budgets.memory or 0)


def _has_weights(candidate: Candidate) -> bool:
    """Whether a candidate trains weights of the backbone, which it has copies of."""
    return any(method(part.method).route == "full" for part in candidate.parts)


def _drawn(spec: StudySpec, prepared: Prepared) -> Iterator[Candidate]:
    fitting = prepared.fitting(spec.search.seed)
    yield prepared.space.usual()
    yield from (one for _ in range(_LOOKS) if (one := fitting.draw()) is not None)


def _costs(prepared: Prepared, candidates: Iterable[Candidate], factor: float) -> Iterator[tuple[Candidate, Cost]]:
    """Yield those candidates that the model carries, with their costs."""
    for candidate in candidates:
        with suppress(UnsupportedError, PlacementError):
            yield candidate, prepared.cost(candidate, factor)
