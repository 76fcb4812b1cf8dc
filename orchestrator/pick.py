"""Which candidate to take: the recommended one with its reason, and what else could be meant by best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evaluators.score import METRICS, Metric
from orchestrator.dominance import knee
from orchestrator.member import Member
from orchestrator.spec import StudySpec
from search_space.quantities import format_bytes, format_count, format_joules, format_seconds

Name = Literal["knee", "best_quality", "cheapest_within_one_standard_error"]
DEFAULT_COST = "trainable_params"


@dataclass(frozen=True)
class Choice:
    """One way to choose, and where it leads.

    Attributes:
        number: Number of the search trial; None where this way leads nowhere.
        reason: Why, in plain words.
    """

    number: int | None
    reason: str


@dataclass(frozen=True)
class Pick:
    """The recommended candidate.

    Attributes:
        number: Number of the search trial.
        reason: Why, in plain words.
        alternatives: The ways to choose that were looked at, by name.
    """

    number: int
    reason: str
    alternatives: Mapping[Name, Choice]

    def to_json(self) -> dict[str, Any]:
        """Return this pick as JSON data."""
        return asdict(self)


def choose(spec: StudySpec, contenders: Sequence[Member]) -> Pick | None:
    """Recommend one of the contenders, or none where there is none.

    With one objective: the best. With more: the knee of the front, or else the cheapest within one standard error of
    the best quality, or else the best quality. Where some were trained again, only these are looked at, by their mean
    on validation. The test split has no say. Ties go to the cheaper, then to the earlier trial.
    """
    trained_again = [member for member in contenders if member.validation]
    members = sorted(trained_again or contenders, key=lambda member: member.number)
    if not members:
        return None
    quality, cost = quality_of(spec), cost_of(spec)
    best = _best(members, quality, cost)
    ways: dict[Name, Choice] = {
        "knee": _knee(spec, members),
        "best_quality": Choice(best.number, f"the best {quality.name}, {_said(best, quality)}"),
        "cheapest_within_one_standard_error": _cheapest(members, best, quality, cost),
    }
    return _recommend(spec, ways)


def quality_of(spec: StudySpec) -> Metric:
    """Return the first objective that is about quality."""
    return next(METRICS[one.metric] for one in spec.objectives if METRICS[one.metric].on_split)


def cost_of(spec: StudySpec) -> Metric:
    """Return the first objective that is about cost, or else the number of trainable parameters."""
    costs = (METRICS[one.metric] for one in spec.objectives if not METRICS[one.metric].on_split)
    return next(costs, METRICS[DEFAULT_COST])


def format_value(value: float, metric: Metric) -> str:
    """Write a value with its unit: `73.7k`, `1.5 MiB`, `3.21 ms`, `0.8420`."""
    written: dict[str, Callable[[float], str]] = {
        "parameters": format_count,
        "B": format_bytes,
        "ms": lambda value: f"{value:.3g} ms",
        "s": format_seconds,
        "FLOP": lambda value: f"{format_count(value)}FLOP",
        "J": format_joules,
    }
    return written.get(metric.unit, lambda value: f"{value:.4f}")(value)


def _recommend(spec: StudySpec, ways: Mapping[Name, Choice]) -> Pick:
    if len(spec.objectives) == 1:
        best = ways["best_quality"]
        within = " within the budgets" if _limited(spec) else ""
        return Pick(_number(best), f"{best.reason}{within}", ways)
    bent, cheapest = ways["knee"], ways["cheapest_within_one_standard_error"]
    if bent.number is not None:
        return Pick(bent.number, bent.reason, ways)
    if cheapest.number is not None:
        return Pick(cheapest.number, f"{cheapest.reason} (no knee: {bent.reason})", ways)
    best = ways["best_quality"]
    return Pick(_number(best), f"{best.reason} (no knee: {bent.reason}; {cheapest.reason})", ways)


def _number(choice: Choice) -> int:
    if choice.number is None:
        raise ValueError(choice.reason)
    return choice.number


def _limited(spec: StudySpec) -> bool:
    budgets = spec.budgets
    return any(
        one is not None for one in (budgets.trainable_params, budgets.memory, budgets.latency, budgets.checkpoint)
    )


def _knee(spec: StudySpec, members: Sequence[Member]) -> Choice:
    metrics = [METRICS[one.metric] for one in spec.objectives]
    if len(metrics) != 2:
        return Choice(None, f"a knee needs two objectives, and there {_are(len(metrics))}")
    values = [[_scaled(member.value(metric.name), metric) for metric in metrics] for member in members]
    row = knee(values, [metric.direction for metric in metrics])
    if row is None:
        return Choice(None, f"{_whose(members)} have no bend, or fewer than three of them are non-dominated")
    said = "; ".join(f"{metric.name} {_said(members[row], metric)}" for metric in metrics)
    reason = f"the knee of the front ({said}): from here, a little more of one objective costs much of the other"
    return Choice(members[row].number, reason)


def _whose(members: Sequence[Member]) -> str:
    return "the candidates that were trained again" if members[0].validation else "the candidates"


def _cheapest(members: Sequence[Member], best: Member, quality: Metric, cost: Metric) -> Choice:
    error = _standard_error(members, best, quality)
    if error is None:
        return Choice(None, "a standard error needs finalists on two seeds or more")
    near = [member for member in members if abs(member.value(quality.name) - best.value(quality.name)) <= error]
    cheapest = min(near, key=lambda member: (member.value(cost.name), _worse(member, quality), member.number))
    reason = (
        f"the cheapest by {cost.name}, {_said(cheapest, cost)}, within one standard error ({error:.2g}) of the best"
    )
    return Choice(cheapest.number, f"{reason} {quality.name}, {_said(best, quality)}")


def _standard_error(members: Sequence[Member], best: Member, metric: Metric) -> float | None:
    """Standard error of the best member's mean; the variance between seeds is pooled, since one alone has few seeds."""
    pooled = [
        (one.seeds - 1, one.variance)
        for member in members
        if (one := member.validation.get(metric.name)) is not None and one.variance is not None
    ]
    if not pooled:
        return None
    freedom = sum(degrees for degrees, _ in pooled)
    variance = sum(degrees * variance for degrees, variance in pooled) / freedom
    return math.sqrt(variance / best.validation[metric.name].seeds)


def _best(members: Sequence[Member], quality: Metric, cost: Metric) -> Member:
    return min(members, key=lambda member: (_worse(member, quality), member.value(cost.name), member.number))


def _worse(member: Member, metric: Metric) -> float:
    value = member.value(metric.name)
    return -value if metric.direction == "maximize" else value


def _scaled(value: float, metric: Metric) -> float:
    """Sizes count by their ratios: the knee is looked for on the logarithmic axis that the figure shows."""
    return math.log10(max(value, 1.0)) if metric.unit in ("parameters", "B") else value


def _said(member: Member, metric: Metric) -> str:
    text = format_value(member.value(metric.name), metric)
    one = member.validation.get(metric.name)
    if one is None or not metric.on_split:
        return text
    return f"{text} on validation, mean of {one.seeds} seed{'s' if one.seeds > 1 else ''}"


def _are(count: int) -> str:
    return "is one" if count == 1 else f"are {count}"
