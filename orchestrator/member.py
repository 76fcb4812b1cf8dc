"""A candidate that may be chosen: its search trial, its finalists, and what they say with how much confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from scipy.special import stdtrit

from evaluators.score import METRICS, Score, in_order
from search_space.notation import write, write_parts

if TYPE_CHECKING:
    from orchestrator.trial import Trial

CONFIDENCE = 0.95
FIRM = 0.9
"""From this probability of being non-dominated on, a member counts as firm."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with Student's t interval of its true value.

    Attributes:
        mean: Mean over the seeds.
        low: Lower end of the 95 % interval; None for a single seed.
        high: Upper end; None for a single seed.
        seeds: Number of seeds.
        variance: Unbiased variance between seeds; None for a single seed.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    variance: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate from one value per seed, at least one."""
        count, mean = len(values), math.fsum(values) / len(values)
        if count == 1:
            return cls(mean, None, None, 1, None)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / count)
        return cls(mean, mean - reach, mean + reach, count, variance)


@dataclass(frozen=True)
class Member:
    """A member of the front, or a neighbour of it that was trained again.

    Attributes:
        trial: The search trial.
        finalists: Its complete finalists: the same candidate on fresh seeds.
        firm: Probability that its mean is not dominated by another candidate's that was trained again; None below
            two seeds.
        validation: Estimates over the finalists on the validation split, by metric; empty without finalists.
        test: Estimates over the finalists on the test split; never used to choose.
    """

    trial: Trial
    finalists: tuple[Trial, ...] = ()
    firm: float | None = None
    validation: Mapping[str, Estimate] = field(init=False)
    test: Mapping[str, Estimate] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "validation", _estimates([one.score for one in self.finalists]))
        object.__setattr__(self, "test", _estimates([one.test for one in self.finalists]))

    @property
    def number(self) -> int:
        """Number of the search trial."""
        return self.trial.number

    @property
    def values(self) -> Mapping[str, float]:
        """Metrics of the search trial at full fidelity."""
        return _score(self.trial).values

    def value(self, metric: str) -> float:
        """Return what the choice is made on: the finalists' mean on validation, or the search's value without them."""
        return self.validation[metric].mean if metric in self.validation else self.known[metric]

    @property
    def known(self) -> Mapping[str, float]:
        """Metrics of the search trial, and its cost where that was not measured."""
        cost = self.trial.cost.values if self.trial.cost else {}
        return {**cost, **self.values}

    @property
    def optimism(self) -> dict[str, float]:
        """By how much the search flattered the candidate, for each quality metric: search less finalists' mean on test.

        Signed so that above 0 the search looked better than the test, whichever way the metric goes.
        """
        return {
            name: (self.values[name] - one.mean) * (1 if METRICS[name].direction == "maximize" else -1)
            for name, one in self.test.items()
            if METRICS[name].on_split and name in self.values
        }

    @property
    def is_firm(self) -> bool | None:
        """Whether it is non-dominated with a probability of at least 0.9; None where that is not known."""
        return None if self.firm is None else self.firm >= FIRM

    def to_json(self) -> dict[str, Any]:
        """Return this member as JSON data."""
        trial = self.trial
        return {
            "number": trial.number,
            "notation": write(trial.candidate),
            "parts": write_parts(trial.candidate),
            "method": trial.candidate.method,
            "candidate": trial.candidate.to_json(),
            "seed": trial.seed,
            "steps": trial.steps,
            "values": dict(self.known),
            "seeds": [one.seed for one in self.finalists],
            "validation": {name: asdict(one) for name, one in self.validation.items()},
            "test": {name: asdict(one) for name, one in self.test.items()},
            "firm": self.firm,
            "is_firm": self.is_firm,
            "optimism": self.optimism,
        }


def _score(trial: Trial) -> Score:
    score = trial.score
    if score is None:
        raise ValueError(f"{trial.key} has no score")
    return score


def _estimates(scores: Sequence[Score | None]) -> dict[str, Estimate]:
    """Estimate each metric that all seeds have, over those seeds that were scored."""
    scored = [score.values for score in scores if score is not None]
    names = in_order(name for name in (scored[0] if scored else ()) if all(name in values for values in scored))
    return {name: Estimate.of([values[name] for values in scored]) for name in names}
