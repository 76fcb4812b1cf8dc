"""The front of a study: who is on it, how sure that is, what it is worth, and which candidate to take.

A search trial is *eligible* when it is complete, was trained to the end, has every objective, and keeps every limit,
by prediction and by measurement; a limit on a metric that is neither predicted nor measured is not kept. A repeat of
an earlier candidate is never a member beside it. The test split has no say in anything here: it is only reported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evaluators.score import LASTING, METRICS, Cost, Direction, Metric, Score, in_order
from orchestrator.dominance import (
    FloatArray,
    hypervolume_interval,
    non_dominated,
    normalized_hypervolume,
    probability_non_dominated,
)
from orchestrator.member import Estimate, Member
from orchestrator.pick import Pick, choose, cost_of
from orchestrator.spec import Objective, StudySpec
from search_space.budgets import within
from search_space.errors import StudyError

if TYPE_CHECKING:
    from orchestrator.storage import StudyStore
    from orchestrator.trial import Trial

Tag = Literal["front", "dominated", "infeasible", "partial", "failed", "paused", "running"]
SCHEMA_VERSION = 1
MOST_LATENCY_MS = 1_000.0
MOST_STEP_MS = 10_000.0
BYTES_PER_PARAMETER = 4
MOST_TRAINING_SECONDS = 86_400.0
MOST_TRAINING_JOULES = 200.0 * MOST_TRAINING_SECONDS
TRAINING_BYTES_PER_PARAMETER = 32
"""Twice what AdamW keeps for a parameter in float32 (weight, gradient, two moments): the other half for activations."""
TRAINING_FLOPS_PER_PARAMETER = 6
"""A multiply-add for each on the way up, and two on the way down."""


@dataclass(frozen=True)
class Front:
    """What a study has found.

    Attributes:
        study: Name of the study.
        objectives: What was searched for.
        limits: Hard limits by metric.
        members: The non-dominated eligible trials by their values in the search, the cheapest first.
        neighbours: Other eligible trials that were trained again, the cheapest first.
        tags: What became of each search trial, by number.
        pick: The recommended candidate; None when no trial is eligible.
        hypervolume: Of the members' values in the search, as a share of the box between the reference point and the
            ideal (1 for what is maximized, 0 for what is minimized), on linear scales; None without a reference point.
        searched_hypervolume: The same of what was trained again alone; None where nothing was, on two seeds.
        confirmed_hypervolume: The same of the finalists' means on validation, and the ends of its 95 % interval, for
            which means are drawn by their spread over seeds; None where `searched_hypervolume` is.
        reference_point: Fixed before the search, by metric.
        history: How the hypervolume grew: pairs of how many trials were settled, and the hypervolume from there on.
        predictors: What predicts better than one candidate and what it costs, as `orchestrator/predictors.py` tells it.
    """

    study: str
    objectives: tuple[Objective, ...]
    limits: Mapping[str, float]
    members: tuple[Member, ...]
    neighbours: tuple[Member, ...]
    tags: Mapping[int, Tag]
    pick: Pick | None
    hypervolume: float | None
    reference_point: Mapping[str, float] | None
    history: tuple[tuple[int, float], ...] = ()
    predictors: tuple[Mapping[str, Any], ...] = ()
    searched_hypervolume: float | None = None
    confirmed_hypervolume: tuple[float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return this front as JSON data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "study": self.study,
            "objectives": [objective.to_json() for objective in self.objectives],
            "limits": dict(self.limits),
            "reference_point": dict(self.reference_point) if self.reference_point else None,
            "hypervolume": self.hypervolume,
            "searched_hypervolume": self.searched_hypervolume,
            "confirmed_hypervolume": _named(self.confirmed_hypervolume),
            "history": [list(pair) for pair in self.history],
            "pick": self.pick.to_json() if self.pick else None,
            "members": [member.to_json() for member in self.members],
            "neighbours": [member.to_json() for member in self.neighbours],
            "predictors": [dict(one) for one in self.predictors],
            "counts": dict(sorted(Counter(self.tags.values()).items())),
            "tags": {str(number): tag for number, tag in sorted(self.tags.items())},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row for each member and neighbour, all with the same columns; None where nothing is known."""
        candidates = (*self.members, *self.neighbours)
        names = in_order(name for member in candidates for name in member.known)
        return [self._row(member, names) for member in candidates]

    def _row(self, member: Member, names: Sequence[str]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "number": member.number,
            "pareto": self.tags[member.number],
            "pick": self.pick is not None and self.pick.number == member.number,
            "method": member.trial.candidate.method,
            "notation": member.to_json()["notation"],
            "seeds": len(member.finalists),
            "firm": member.firm,
        }
        row |= {name: member.known.get(name) for name in names}
        for name in names:
            row |= _columns(f"validation_{name}", member.validation.get(name))
            row |= _columns(f"test_{name}", member.test.get(name))
        return row


def front_of(
    spec: StudySpec,
    trials: Sequence[Trial],
    limits: Mapping[str, float],
    finalists: Sequence[Trial] = (),
    reference: Mapping[str, float] | None = None,
) -> Front:
    """Find the front of a study.

    Args:
        spec: The study's spec.
        trials: Trials of the search, in any order and any state.
        limits: Hard limits by metric.
        finalists: Trials that trained candidates of the search again; each names its search trial as its origin.
        reference: The reference point of the hypervolume, by metric.
    """
    candidates = _candidates(spec, trials, limits, finalists)
    mask = non_dominated(_table(spec, candidates), _directions(spec))
    members = [one for one, best in zip(candidates, mask, strict=True) if best]
    neighbours = [one for one, best in zip(candidates, mask, strict=True) if one.finalists and not best]
    history = _history(spec, trials, candidates, reference) if reference is not None else []
    again = _sampled(spec, candidates) if reference is not None else []
    return Front(
        study=spec.name,
        objectives=spec.objectives,
        limits=dict(limits),
        members=_cheapest_first(spec, members),
        neighbours=_cheapest_first(spec, neighbours),
        tags=_tags(trials, limits, {one.number for one in members}),
        pick=choose(spec, (*members, *neighbours)),
        hypervolume=max((volume for _, volume in history), default=0.0) if reference is not None else None,
        reference_point=dict(reference) if reference is not None else None,
        history=tuple(history),
        searched_hypervolume=_hypervolume(spec, _table(spec, again), reference) if reference and again else None,
        confirmed_hypervolume=_confirmed(spec, again, reference) if reference and again else None,
    )


def front_of_study(store: StudyStore) -> Front:
    """Find the front of a study in the storage, with the limits and the reference point that were noted for it.

    Raises:
        StudyError: A limit is a share of the backbone, and the backbone's size was not noted.
    """
    limits = limits_of(store)
    front = front_of(store.spec, store.trials(), limits, store.trials("finalists"), store.noted("reference_point"))
    return replace(front, predictors=tuple(store.noted("predictors") or ()))


def limits_of(store: StudyStore) -> dict[str, float]:
    """Return a study's limits by metric, as they were noted when it started. Raises StudyError."""
    if (noted := store.noted("limits")) is not None:
        return {name: float(limit) for name, limit in noted.items()}
    backbone = store.noted("backbone")
    budgets = store.spec.budgets
    if backbone is None and isinstance(budgets.trainable_params, str):
        raise StudyError(f"study {store.name!r} was never started: the size of its backbone is not known yet")
    return budgets.limits(backbone["parameters"] if backbone else 0)


def is_feasible(trial: Trial, limits: Mapping[str, float]) -> bool:
    """Whether a trial is known to keep every limit: as measured, and where nothing was measured, as predicted."""
    known = (trial.cost.values if trial.cost else {}) | dict(_values(trial))
    return set(limits) <= set(known) and within(limits, known)


def is_over_for_good(score: Score, limits: Mapping[str, float]) -> bool:
    """Whether what was measured up to a score is over a limit in a way that no further training changes."""
    return not within({name: limit for name, limit in limits.items() if name in LASTING}, score.values)


def reference_point(
    spec: StudySpec,
    limits: Mapping[str, float],
    classes: int,
    backbone_parameters: int,
    full: Cost | None = None,
) -> dict[str, float]:
    """Return the worst value of each objective that still counts, fixed before the search.

    A limited metric: its limit. Quality: what guessing scores. A cost without a limit: that of full fine-tuning.

    Args:
        spec: The study's spec.
        limits: Hard limits by metric.
        classes: Number of classes, at least 2.
        backbone_parameters: Parameters of the backbone.
        full: Predicted cost of full fine-tuning, where it is known.
    """
    known = {name: value for name, value in full.values.items() if value > 0} if full else {}
    fixed = known | dict(limits)
    metrics = [METRICS[objective.metric] for objective in spec.objectives]
    return {one.name: fixed.get(one.name, _worst_value(one, classes, backbone_parameters)) for one in metrics}


def _worst_value(metric: Metric, classes: int, backbone_parameters: int) -> float:
    """Return the value of a candidate that is of no use: what guessing scores, or what training everything costs."""
    if metric.on_split:
        chance = 1.0 / classes
        worst = 1.0 - chance if metric.direction == "minimize" else chance
        return math.log(classes) if metric.unit == "nat" else worst
    by_unit = {"parameters": 1, "B": BYTES_PER_PARAMETER, "FLOP": TRAINING_FLOPS_PER_PARAMETER}
    if metric.name == "peak_memory_bytes":
        return float(TRAINING_BYTES_PER_PARAMETER * backbone_parameters)
    if metric.unit in by_unit:
        return float(by_unit[metric.unit] * backbone_parameters)
    if metric.unit == "s":
        return MOST_TRAINING_SECONDS
    if metric.unit == "J":
        return MOST_TRAINING_JOULES
    return MOST_LATENCY_MS if metric.name == "latency_ms" else MOST_STEP_MS


def _values(trial: Trial) -> Mapping[str, float]:
    return trial.score.values if trial.score else {}


def _is_whole(trial: Trial) -> bool:
    return trial.state == "complete" and trial.score is not None and trial.score.full


def _eligible(spec: StudySpec, trials: Sequence[Trial], limits: Mapping[str, float]) -> list[Trial]:
    """Return the eligible trials by number, of each candidate the first."""
    found: dict[str, Trial] = {}
    for one in sorted(trials, key=lambda one: one.number):
        measured = all(objective.metric in _values(one) for objective in spec.objectives)
        if _is_whole(one) and measured and is_feasible(one, limits):
            found.setdefault(one.candidate.sha256, one)
    return list(found.values())


def _by_origin(finalists: Sequence[Trial]) -> dict[int, list[Trial]]:
    """Group the complete finalists by the search trial that they come from, in order of their numbers."""
    found: dict[int, list[Trial]] = {}
    for one in sorted(finalists, key=lambda one: one.number):
        if _is_whole(one):
            found.setdefault(int(one.origin), []).append(one)
    return found


def _candidates(
    spec: StudySpec, trials: Sequence[Trial], limits: Mapping[str, float], finalists: Sequence[Trial]
) -> list[Member]:
    """Return the eligible trials with their finalists, and how firm each is among those that were trained again."""
    again = _by_origin(finalists)
    members = [Member(one, tuple(again.get(one.number, ()))) for one in _eligible(spec, trials, limits)]
    samples = {one.number: rows for one in members if (rows := _samples(spec, one))}
    chances = probability_non_dominated(list(samples.values()), _directions(spec))
    firm = {number: float(chance) for number, chance in zip(samples, chances, strict=True) if not math.isnan(chance)}
    return [replace(one, firm=firm.get(one.number)) for one in members]


def _directions(spec: StudySpec) -> list[Direction]:
    return [objective.direction for objective in spec.objectives]


def _table(spec: StudySpec, members: Sequence[Member]) -> FloatArray:
    """Return the members' values in the search, shape (members, objectives)."""
    values = [[one.values[objective.metric] for objective in spec.objectives] for one in members]
    return np.array(values, dtype=np.float64).reshape(len(members), len(spec.objectives))


def _cheapest_first(spec: StudySpec, members: Sequence[Member]) -> tuple[Member, ...]:
    cost = cost_of(spec).name
    return tuple(sorted(members, key=lambda one: (one.known.get(cost, math.inf), one.number)))


def _tags(trials: Sequence[Trial], limits: Mapping[str, float], members: set[int]) -> dict[int, Tag]:
    return {one.number: "front" if one.number in members else _tag(one, limits) for one in trials}


def _tag(trial: Trial, limits: Mapping[str, float]) -> Tag:
    """Say what became of a trial that is not on the front."""
    if trial.state == "partial" and trial.score is not None and is_over_for_good(trial.score, limits):
        return "infeasible"
    if trial.state != "complete":
        return trial.state
    if not _is_whole(trial):
        return "partial"
    return "dominated" if is_feasible(trial, limits) else "infeasible"


def _history(
    spec: StudySpec, trials: Sequence[Trial], candidates: Sequence[Member], reference: Mapping[str, float]
) -> list[tuple[int, float]]:
    """Replay the search in the order in which trials were settled."""
    table, directions = _table(spec, candidates), _directions(spec)
    rows = {one.number: row for row, one in enumerate(candidates)}
    history: list[tuple[int, float]] = []
    front: list[int] = []
    for settled, one in enumerate(sorted((one for one in trials if one.is_settled), key=_settled_at), 1):
        if one.number not in rows:
            continue
        grown = [*front, rows[one.number]]
        mask = non_dominated(table[grown], directions)
        if mask[-1]:
            front = [row for row, best in zip(grown, mask, strict=True) if best]
            history.append((settled, _hypervolume(spec, table[front], reference)))
    return history


def _hypervolume(spec: StudySpec, values: FloatArray, reference: Mapping[str, float]) -> float:
    return normalized_hypervolume(values, *_box(spec, reference), _directions(spec))


def _box(spec: StudySpec, reference: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Return the reference point and the ideal, in the order of the objectives."""
    ideal = [1.0 if direction == "maximize" else 0.0 for direction in _directions(spec)]
    return [reference[objective.metric] for objective in spec.objectives], ideal


def _sampled(spec: StudySpec, candidates: Sequence[Member]) -> list[Member]:
    """Return the candidates that were trained again; none where none of them was on two seeds."""
    again = [one for one in candidates if _samples(spec, one)]
    return again if any(len(one.finalists) > 1 for one in again) else []


def _confirmed(spec: StudySpec, again: Sequence[Member], reference: Mapping[str, float]) -> tuple[float, float, float]:
    """Return the hypervolume of what was trained again, with its interval."""
    return hypervolume_interval([_samples(spec, one) for one in again], *_box(spec, reference), _directions(spec))


def _samples(spec: StudySpec, member: Member) -> list[list[float]]:
    """Return the objectives of each of a member's finalists; none where an objective was not measured."""
    names = [objective.metric for objective in spec.objectives]
    if not all(name in member.validation for name in names):
        return []
    return [[_values(trial)[name] for name in names] for trial in member.finalists]


def _named(interval: tuple[float, float, float] | None) -> dict[str, float] | None:
    return None if interval is None else dict(zip(("value", "low", "high"), interval, strict=True))


def _settled_at(trial: Trial) -> tuple[datetime, int]:
    return trial.finished or datetime.max, trial.number


def _columns(head: str, one: Estimate | None) -> dict[str, float | None]:
    found = asdict(one) if one else {}
    return {f"{head}_{end}": found.get(end) for end in ("mean", "low", "high")}
