"""What is known of a candidate before it is trained, and whether that keeps the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluators.device_memory import corrected_factor
from evaluators.score import METRICS, Cost
from orchestrator.pick import format_value
from orchestrator.trial import Trial
from search_space.budgets import violations, within

_MEMORY = "peak_memory_bytes"


def foreseen(cost: Cost, factor: float) -> dict[str, float]:
    """Return the values of a cost, predicted memory multiplied with a factor.

    That of inference is never measured. So it is only raised: what its limit lets in is within it as predicted.
    """
    factors = {_MEMORY: factor, "inference_memory_bytes": max(1.0, factor)}
    return {name: value * factors.get(name, 1.0) for name, value in cost.values.items()}


def excesses(limits: Mapping[str, float], values: Mapping[str, float]) -> dict[str, str]:
    """Say of each metric that is over its limit what it is and what the limit is."""
    return {
        name: f"{name} {format_value(values[name], METRICS[name])} of {format_value(limits[name], METRICS[name])}"
        for name, excess in violations(limits, values).items()
        if excess > 0
    }


class MemoryFactor:
    """What predicted memory is multiplied with: what is given, until trials have measured it.

    Args:
        given: The factor of the study.
    """

    def __init__(self, given: float) -> None:
        self._given = given
        self._pairs: dict[int, tuple[float, float]] = {}
        self._value: float | None = None

    def note(self, trial: Trial) -> None:
        """Take what a trial of the search measured, in place of what it measured before."""
        predicted = trial.cost.peak_memory_bytes if trial.cost is not None else None
        measured = trial.score.values.get(_MEMORY) if trial.score is not None else None
        if predicted is not None and measured is not None:
            self._pairs[trial.number] = (float(predicted), measured)
            self._value = None

    @property
    def value(self) -> float:
        """The factor as it is now."""
        if self._value is None:
            pairs = self._pairs.values()
            self._value = corrected_factor(self._given, [one for one, _ in pairs], [one for _, one in pairs])
        return self._value


@dataclass
class Refusals:
    """Architectures that were refused untrained, and would be again with other rates.

    Attributes:
        limits: By metric.
    """

    limits: Mapping[str, float]
    _rejected: list[Trial] = field(default_factory=list)
    _factor: float | None = None
    _read: int = 0
    _architectures: set[str] = field(default_factory=set)

    def note(self, trial: Trial) -> None:
        """Take a trial of the search that was settled; only what was rejected untrained counts."""
        if trial.state == "infeasible":
            self._rejected.append(trial)

    def under(self, factor: float) -> set[str]:
        """Return the identities of these architectures, by what the factor makes of predicted memory."""
        if factor != self._factor:
            self._factor, self._read, self._architectures = factor, 0, set()
        for one in self._rejected[self._read :]:
            if one.cost is None or not within(self.limits, foreseen(one.cost, factor)):
                self._architectures.add(one.candidate.architecture_sha256)
        self._read = len(self._rejected)
        return self._architectures
