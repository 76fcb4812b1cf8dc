"""Hard limits of a study, and how far a candidate is from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from search_space.quantities import (
    parse_bytes,
    parse_count,
    parse_joules,
    parse_milliseconds,
    parse_seconds,
    parse_share,
)
from search_space.strict import Strict

BUDGET_OF = {
    "trainable_params": "trainable_params",
    "peak_memory_bytes": "memory",
    "inference_memory_bytes": "inference_memory",
    "training_flops": "flops",
    "latency_ms": "latency",
    "training_seconds": "training_time",
    "training_joules": "energy",
    "checkpoint_bytes": "checkpoint",
    "calibrated_ece": "ece",
    "debiased_squared_error": "debiased_squared_error",
}
"""The budget that limits each metric, as a study file names it."""
OF_MEMORY = ("peak_memory_bytes", "inference_memory_bytes")
"""Metrics that a device's memory bounds."""


def _count_or_share(value: object) -> int | str:
    if isinstance(value, str) and value.strip().endswith("%"):
        if not 0 < parse_share(value) <= 1:
            raise ValueError(f"expected a percentage above 0% and up to 100%, not {value!r}")
        return value.strip()
    return parse_count(value)


Count = Annotated[int, BeforeValidator(parse_count)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Milliseconds = Annotated[float, BeforeValidator(parse_milliseconds)]
Joules = Annotated[float, BeforeValidator(parse_joules)]
CountOrShare = Annotated[int | str, BeforeValidator(_count_or_share)]


class BudgetSpec(Strict):
    """The budgets of a study. A limit on a candidate is hard: over it is never on the front.

    Attributes:
        trainable_params: Trainable parameters without the task's head: a count, or a share of the backbone (`1%`).
        memory: Peak bytes of a training step, predicted before training and measured after.
        memory_factor: What predicted memory is multiplied with before it is compared with `memory`, until three trials
            are measured; from then on their own ratio of measured to predicted, at its ninth decile. That of inference
            is multiplied with it too where it is above 1.
        inference_memory: Peak bytes of a forward pass, predicted before training.
        flops: Operations of the matrix products of a training step for each token, predicted before training.
        latency: Milliseconds for one example at inference, measured.
        checkpoint: Bytes of the saved candidate, predicted before training and measured after.
        training_time: Seconds of all training steps, measured.
        energy: Joules of the device during all training steps, measured; for devices that have a meter.
        ece: Expected calibration error on validation after calibration (`calibrated_ece`), measured.
        debiased_squared_error: Squared calibration error on validation before calibration, debiased, measured.
        trials: Candidates that are trained.
        time: Wall-clock seconds of the search; running trials are stopped at the end.
        steps: Training steps of the whole search.
        trial_time: Wall-clock seconds of one trial; a candidate that exceeds it, hanging perhaps, fails with cause
            `timeout` and the study goes on.
    """

    trainable_params: CountOrShare | None = None
    memory: Bytes | None = None
    memory_factor: Annotated[float, Field(ge=0.5, le=10)] = 1.0
    inference_memory: Bytes | None = None
    flops: Count | None = None
    latency: Milliseconds | None = None
    checkpoint: Bytes | None = None
    training_time: Seconds | None = None
    energy: Joules | None = None
    ece: Annotated[float, Field(gt=0, lt=1)] | None = None
    debiased_squared_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    trials: Annotated[Count, Field(le=1_000_000)] = 24
    time: Seconds | None = None
    steps: Count | None = None
    trial_time: Seconds = 12 * 3600.0

    def limits(self, backbone_parameters: int) -> dict[str, float]:
        """Return the limit of each metric that has one; shares are taken of the backbone's parameters."""
        given = {metric: getattr(self, budget) for metric, budget in BUDGET_OF.items()}
        given["trainable_params"] = self._most_trainable(backbone_parameters)
        return {metric: float(limit) for metric, limit in given.items() if limit is not None}

    def _most_trainable(self, backbone_parameters: int) -> int | None:
        if isinstance(self.trainable_params, str):
            share = parse_share(self.trainable_params) * backbone_parameters
            return max(1, math.floor(share + 1e-6))  # 29% of 100 is 29, whatever binary fractions say
        return self.trainable_params


def violations(limits: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
    """Return value / limit - 1 for each limited metric that is known: feasible where <= 0, and free of units."""
    return {name: values[name] / limit - 1.0 for name, limit in limits.items() if name in values}


def within(limits: Mapping[str, float], values: Mapping[str, float]) -> bool:
    """Whether every limited metric that is known keeps its limit."""
    return all(excess <= 0 for excess in violations(limits, values).values())
