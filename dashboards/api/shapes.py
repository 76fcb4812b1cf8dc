"""What the API answers with. Metrics stand under their own names, in the units that `/metrics` of a front gives."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dashboards.reports import Report, State
from evaluators.score import METRICS, Direction, Score
from orchestrator.front import Front
from orchestrator.pick import quality_of
from orchestrator.trial import Trial
from search_space.notation import write, write_parts


class Shape(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class ProblemShape(Shape):
    """One thing that is wrong in a request, as a dotted path and what to do."""

    path: str
    message: str


class ErrorShape(Shape):
    """What went wrong."""

    message: str
    problems: list[ProblemShape] = Field(default_factory=list)


class ErrorAnswer(Shape):
    """The body of every answer that is an error."""

    error: ErrorShape


class MetricShape(Shape):
    """What a metric is."""

    name: str
    direction: Direction
    unit: str
    text: str
    short: str

    @classmethod
    def of(cls, name: str) -> MetricShape:
        """Describe a metric."""
        one = METRICS[name]
        return cls(name=name, direction=one.direction, unit=one.unit, text=one.text, short=one.short)


class Best(Shape):
    """The best trial so far, by the first objective that is about quality."""

    number: int
    parts: str
    metric: str
    value: float


class StudySummary(Shape):
    """A study in a list."""

    name: str
    state: State
    reason: str
    version: str
    model: str
    data: str
    objectives: list[MetricShape]
    trials: int = Field(description="trials that the search has trained and settled, or has paused at a rung")
    trials_budget: int = Field(description="trials that the search may train")
    running: int = Field(description="trials that are running now, in any phase")
    paused: int = Field(description="trials of the search that wait at a rung and may go on")
    best: Best | None
    submitted: datetime | None
    started: datetime | None
    changed: datetime | None

    @classmethod
    def of(cls, report: Report) -> StudySummary:
        """Summarise a report."""
        return cls(**_summary(report))


class StudyDetail(StudySummary):
    """A study with its spec."""

    position: int | None = Field(description="its place in the queue")
    attempts: int = Field(description="starts of its driver since a trial was last settled, or paused")
    spec: dict[str, Any]
    mlflow_url: str | None

    @classmethod
    def of_report(cls, report: Report, mlflow_url: str | None) -> StudyDetail:
        """Describe a report."""
        one = report.submission
        return cls(
            **_summary(report),
            position=one.position if one else None,
            attempts=one.attempts if one else 0,
            spec=report.spec.to_json(),
            mlflow_url=mlflow_url,
        )


class StudyList(Shape):
    """Some of the studies, the newest first."""

    studies: list[StudySummary]
    total: int


class TrialShape(Shape):
    """A trial: what was tried, what came of it, and how it counts."""

    key: str
    phase: str
    number: int
    parts: str
    notation: str
    method: str
    state: str
    tag: str = Field(
        description="pareto: front, dominated, infeasible, partial, failed, paused, running; else the phase"
    )
    cause: str | None
    message: str
    origin: str
    seed: int
    steps: int
    fidelity: float | None
    metrics: dict[str, float]
    test: dict[str, float] | None
    started: datetime | None
    finished: datetime | None

    @classmethod
    def of(cls, trial: Trial, front: Front | None) -> TrialShape:
        """Describe a trial, with its predicted costs where they were not measured."""
        score: Score | None = trial.score
        cost = trial.cost.values if trial.cost else {}
        tags = front.tags if front else {}
        return cls(
            key=trial.key,
            phase=trial.phase,
            number=trial.number,
            parts=write_parts(trial.candidate),
            notation=write(trial.candidate),
            method=trial.candidate.method,
            state=trial.state,
            tag=tags.get(trial.number, trial.state) if trial.phase == "search" else trial.phase,
            cause=trial.cause,
            message=trial.message,
            origin=trial.origin,
            seed=trial.seed,
            steps=trial.steps,
            fidelity=score.fidelity if score else None,
            metrics={**cost, **(score.values if score else {})},
            test=dict(trial.test.values) if trial.test else None,
            started=trial.started.astimezone() if trial.started else None,
            finished=trial.finished.astimezone() if trial.finished else None,
        )


class TrialList(Shape):
    """Some of the trials of a study, by phase and number."""

    study: str
    version: str
    trials: list[TrialShape]
    total: int


class FrontShape(Shape):
    """The front of a study as it is now; `front` is what `pareto.json` holds, and null before the study has begun."""

    study: str
    version: str
    state: State
    objectives: list[str]
    metrics: dict[str, MetricShape]
    front: dict[str, Any] | None

    @classmethod
    def of(cls, report: Report) -> FrontShape:
        """Describe the front of a report."""
        return cls(
            study=report.name,
            version=report.version,
            state=report.state,
            objectives=[one.metric for one in report.spec.objectives],
            metrics={name: MetricShape.of(name) for name in (*METRICS, *_of_single_tasks(report))},
            front=report.front.to_json() if report.front else None,
        )


def _of_single_tasks(report: Report) -> list[str]:
    """Return the metrics of quality of each of a study's several tasks, by name."""
    return [f"{name}/{task}" for name in METRICS if METRICS[name].on_split for task in report.spec.task.tasks or ()]


def _summary(report: Report) -> dict[str, Any]:
    running = sum(one.state == "running" for phase in report.trials.values() for one in phase)
    return {
        "name": report.name,
        "state": report.state,
        "reason": report.reason,
        "version": report.version,
        "model": report.spec.model.name,
        "data": " and ".join(one.dataset or "files" for one in report.spec.task.sources.values()),
        "objectives": [MetricShape.of(one.metric) for one in report.spec.objectives],
        "trials": report.done,
        "trials_budget": report.spec.budgets.trials,
        "running": running if report.state == "running" else 0,
        "paused": report.paused,
        "best": _best(report),
        "submitted": report.submitted,
        "started": report.started,
        "changed": report.changed,
    }


def _best(report: Report) -> Best | None:
    trial, quality = report.best, quality_of(report.spec).name
    if trial is None or trial.score is None:
        return None
    parts = write_parts(trial.candidate)
    return Best(number=trial.number, parts=parts, metric=quality, value=trial.score[quality])
