"""What is measured of a candidate: every metric with its natural sign, unit, fidelity and split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from search_space.errors import EvaluationError, did_you_mean, one_of

Direction = Literal["maximize", "minimize"]
Split = Literal["train", "validation", "calibration", "test"]
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Metric:
    """A metric that candidates are scored by.

    Attributes:
        name: Its name in scores, objectives and MLflow.
        direction: Which way is better.
        unit: `1` for a share, `nat`, `B`, `ms`, `parameters`, `FLOP`, `s`, `J`.
        on_split: Whether it depends on a data split (quality) or not (cost).
        text: One line for people.
        short: Column head.
    """

    name: str
    direction: Direction
    unit: str
    on_split: bool
    text: str
    short: str


_ALL = (
    Metric("accuracy", "maximize", "1", True, "share of examples classified right", "accuracy"),
    Metric("macro_f1", "maximize", "1", True, "mean of the classes' F1", "macro F1"),
    Metric("nll", "minimize", "nat", True, "negative log-likelihood of the model as it is", "NLL"),
    Metric("calibrated_nll", "minimize", "nat", True, "NLL after cross-fitted temperature scaling", "cal. NLL"),
    Metric("ece", "minimize", "1", True, "expected calibration error, top label, 15 equal-width bins", "ECE"),
    Metric("calibrated_ece", "minimize", "1", True, "ECE after calibration fitted on other data", "cal. ECE"),
    Metric("ece_floor", "minimize", "1", True, "mean ECE that a perfectly calibrated model would show", "ECE floor"),
    Metric("ece_p_value", "maximize", "1", True, "how often a perfectly calibrated model shows as much ECE", "ECE p"),
    Metric("calibrated_ece_floor", "minimize", "1", True, "the floor after calibration", "cal. floor"),
    Metric("calibrated_ece_p_value", "maximize", "1", True, "the p-value after calibration", "cal. p"),
    Metric("debiased_squared_error", "minimize", "1", True, "squared calibration error, debiased, signed", "debiased"),
    Metric("brier", "minimize", "1", True, "Brier score, summed over classes", "Brier"),
    Metric(
        "worst_subgroup_accuracy", "maximize", "1", True, "accuracy of the subgroup where it is least", "worst acc."
    ),
    Metric(
        "worst_subgroup_nll", "minimize", "nat", True, "calibrated NLL of the subgroup where it is most", "worst NLL"
    ),
    Metric("trainable_params", "minimize", "parameters", False, "trainable parameters without the head", "params"),
    Metric("head_params", "minimize", "parameters", False, "trainable parameters of the head", "head"),
    Metric("deployed_params", "minimize", "parameters", False, "numbers to serve it, without the head", "deployed"),
    Metric("checkpoint_bytes", "minimize", "B", False, "bytes of the saved candidate, head included", "checkpoint"),
    Metric("peak_memory_bytes", "minimize", "B", False, "peak bytes of tensors in a training step", "memory"),
    Metric("inference_memory_bytes", "minimize", "B", False, "peak bytes of tensors in a forward pass", "inference"),
    Metric("forward_flops", "minimize", "FLOP", False, "matrix products of a forward pass, per token", "forward"),
    Metric("training_flops", "minimize", "FLOP", False, "matrix products of a training step, per token", "training"),
    Metric("training_seconds", "minimize", "s", False, "time of all training steps", "training time"),
    Metric("training_joules", "minimize", "J", False, "energy of the device during all training steps", "energy"),
    Metric(
        "train_step_ms",
        "minimize",
        "ms",
        False,
        "median time of a training step, from stored states where there are",
        "step",
    ),
    Metric("latency_ms", "minimize", "ms", False, "median time to classify one example", "latency"),
    Metric("packing_gain", "maximize", "1", False, "how much faster steps of its crew are in one forward pass", "gain"),
)
GAIN = "packing_gain"
"""Says how a candidate was trained and nothing of the candidate: no objective."""
PREDICTED = ("inference_memory_bytes", "forward_flops", "training_flops")
"""Metrics that follow from shapes and are not measured: a score takes them from the candidate's cost."""
METERED = ("training_joules",)
"""Metrics that a score has only where the device has a meter."""
UNTRAINED = ("latency_ms",)
"""Measured metrics that training does not change: a candidate has them at its end as it has them at its first rung."""
LASTING = (*UNTRAINED, "peak_memory_bytes", "training_seconds", "training_joules")
"""Measured metrics that are over a limit for good once they are: training does not change them, or adds to them."""
OF_SUBGROUPS = ("worst_subgroup_accuracy", "worst_subgroup_nll")
"""Metrics that a score has only where the task has subgroups."""

_OF_A_TASK = "/"
"""Between a metric of quality and the one of several tasks that it is measured on: `accuracy/trec`."""


class _Metrics(dict[str, Metric]):
    """The metrics by name; those of one of several tasks are made when they are asked for."""

    def __missing__(self, name: str) -> Metric:
        base, slash, task = name.partition(_OF_A_TASK)
        if not (slash and task and base in self and self[base].on_split):
            raise KeyError(name)
        whole = self[base]
        return replace(whole, name=name, text=f"{whole.text}, on {task}", short=f"{whole.short} {task}")


METRICS: Mapping[str, Metric] = _Metrics({metric.name: metric for metric in _ALL})
"""All metrics by name. Where a study has several tasks, `accuracy` is their mean, and `METRICS["accuracy/trec"]` is
that of one of them; only the former are in it when it is gone through."""


BINNED = ("ece", "calibrated_ece")
"""Metrics that mean little without what a perfectly calibrated model would show: `NAME_floor` and `NAME_p_value`."""


def metric(name: str) -> Metric:
    """Return a metric. Raises ValueError with the allowed names and the nearest one."""
    try:
        return METRICS[name]
    except KeyError:
        known = f"there is no metric {name!r}; allowed: {one_of(METRICS)}{did_you_mean(name, METRICS)}"
        raise ValueError(known) from None


def task_of(name: str) -> str:
    """Return the task that a metric is measured on, by its name; empty for all of a study's tasks."""
    return name.partition(_OF_A_TASK)[2]


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of metrics in the order of `METRICS`, those of single tasks behind; other names are left out."""
    given = list(dict.fromkeys(names))
    bases = list(METRICS)
    known = [name for name in given if name.partition(_OF_A_TASK)[0] in METRICS]
    return sorted(known, key=lambda name: (bool(task_of(name)), bases.index(name.partition(_OF_A_TASK)[0])))


@dataclass(frozen=True)
class Score:
    """The metrics of one candidate at one rung.

    Attributes:
        values: Metric values by name, finite.
        step: Training steps done.
        fidelity: `step` as a share of full training, in (0, 1].
        split: The split that quality metrics were computed on.
        seed: Seed of the training.
        errors: Standard errors of quality metrics that were measured on some rows of the split, by name; none where
            all rows were looked at.
    """

    values: Mapping[str, float]
    step: int
    fidelity: float
    split: Split
    seed: int
    errors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        broken = [name for name, value in self.values.items() if not math.isfinite(value)]
        if broken:
            raise EvaluationError("diverged", f"{one_of(broken)} not finite at step {self.step}")

    def __getitem__(self, name: str) -> float:
        """Return the value of a metric; KeyError when it was not measured."""
        return self.values[name]

    def beside(self, cost: Cost | None) -> Score:
        """Return this score with what is predicted of the candidate and never measured."""
        known = cost.values if cost else {}
        return replace(self, values={name: known[name] for name in PREDICTED if name in known} | dict(self.values))

    @property
    def full(self) -> bool:
        """Whether the candidate was trained to the end."""
        return self.fidelity >= 1.0

    def to_json(self) -> dict[str, Any]:
        """Return this score as JSON data, unit and split beside every value."""
        metrics = {
            name: {"value": value, "unit": METRICS[name].unit, "split": self.split if METRICS[name].on_split else None}
            | ({"standard_error": self.errors[name]} if name in self.errors else {})
            for name, value in self.values.items()
        }
        head = {"schema_version": SCHEMA_VERSION, "step": self.step, "fidelity": self.fidelity}
        return {**head, "split": self.split, "seed": self.seed, "metrics": metrics}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Score:
        """Read a score. Raises ValueError for another schema version, KeyError for a missing field."""
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"score: schema_version {data['schema_version']!r} is not {SCHEMA_VERSION}")
        values = {name: float(one["value"]) for name, one in data["metrics"].items()}
        measured = data["metrics"].items()
        errors = {name: float(one["standard_error"]) for name, one in measured if "standard_error" in one}
        return cls(values, data["step"], data["fidelity"], data["split"], data["seed"], errors)


@dataclass(frozen=True)
class Cost:
    """What is known of a candidate before it is trained.

    Attributes:
        trainable_params: Exact, without the task's head.
        head_params: Exact, of the task's head.
        peak_memory_bytes: Predicted peak of a training step; None where it cannot be predicted.
        deployed_params: What must be kept to serve it beside the backbone, trained or not, without the head.
        checkpoint_bytes: Size of the saved candidate: every tensor exact, names in a hybrid's file a little shorter.
        inference_memory_bytes: Predicted peak of a forward pass without gradients.
        forward_flops: Operations of the matrix products of a forward pass, per token.
        training_flops: Those of a training step, per token: the way back ends at the lowest layer that is trained.
        accumulation: Parts that its steps are divided into; None where they are whole.
    """

    trainable_params: int
    head_params: int
    peak_memory_bytes: int | None = None
    deployed_params: int | None = None
    checkpoint_bytes: int | None = None
    inference_memory_bytes: int | None = None
    forward_flops: int | None = None
    training_flops: int | None = None
    accumulation: int | None = None

    @property
    def values(self) -> dict[str, float]:
        """The known metrics by name."""
        return {name: float(value) for name, value in vars(self).items() if name in METRICS and value is not None}

    def to_json(self) -> dict[str, int]:
        """Return this cost as JSON data; what is unknown is left out."""
        return {name: int(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Cost:
        """Read a cost."""
        return cls(**data)
