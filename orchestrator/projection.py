"""What the record says of a study: each trial, and the study itself, as a run. Pure: storage in, plain data out.

The same trial gives the same run at any time and on any machine, down to the time stamps. Metrics are there from the
moment when the trial is settled: a rung that is trained again after a crash may measure other times, and a point that
was written cannot be taken back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import yaml

from evaluators.score import METRICS, Score
from orchestrator.front import Front, Tag
from orchestrator.redaction import redact
from orchestrator.spec import StudySpec
from search_space.candidate import Candidate
from search_space.notation import write, write_parts

if TYPE_CHECKING:
    from orchestrator.trial import State, Trial

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
STUDY_KEY = "study"
MOST_CHARACTERS = 5_000
MOST_NAME = 120
_TRIAL_STATUS: Mapping[State, RunStatus] = {
    "running": "RUNNING",
    "paused": "RUNNING",
    "complete": "FINISHED",
    "partial": "KILLED",
    "infeasible": "KILLED",
    "failed": "FAILED",
}
_STUDY_STATUS: Mapping[str, RunStatus] = {"complete": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_EXTENDABLE = ("trials", "time", "steps", "trial_time")


@dataclass(frozen=True)
class Point:
    """One value of a metric.

    Attributes:
        name: `validation_accuracy`, `test_nll`, `latency_ms` ...
        value: Finite.
        step: Training steps done; for the study, trials settled.
        time_ms: Milliseconds since 1970.
    """

    name: str
    value: float
    step: int
    time_ms: int


@dataclass(frozen=True)
class Run:
    """A trial, or the study, as the record shows it.

    Attributes:
        key: `search/12`, or STUDY_KEY.
        name: For people.
        status: What became of it.
        started_ms: When it began, milliseconds since 1970.
        finished_ms: When it was settled; None while it runs or waits at a rung.
        params: What it was.
        points: What was measured; empty until it is settled.
        tags: What it counts as. `pareto` is left out as long as nobody knows.
    """

    key: str
    name: str
    status: RunStatus
    started_ms: int
    finished_ms: int | None
    params: Mapping[str, str]
    points: tuple[Point, ...]
    tags: Mapping[str, str]

    def under(self, parent: str) -> Run:
        """Return this run as a child of MLflow's run of the study."""
        return replace(self, tags={**self.tags, "mlflow.parentRunId": parent})

    def tagged(self, tag: Tag) -> Run:
        """Return this run with what the front says of it now."""
        return replace(self, tags={**self.tags, "pareto": tag})


def run_of(trial: Trial, tag: Tag | None = None) -> Run:
    """Return the run of a trial; `tag` is what the front says of it, where that is known."""
    started = _milliseconds(trial.started)
    finished = max(_milliseconds(trial.finished), started) if trial.is_settled else None
    return Run(
        key=trial.key,
        name=_name(trial),
        status=_status(trial),
        started_ms=started,
        finished_ms=finished,
        params=_cut(_params(trial)),
        points=() if finished is None else tuple(_points(trial, started, finished)),
        tags=_cut(_tags(trial, tag)),
    )


def runs_of_predictors(points: Sequence[Mapping[str, Any]], finalists: Sequence[Trial]) -> Iterator[Run]:
    """Yield the runs of what predicts better than one candidate: settled when the last of its finalists was."""
    for point in points:
        used = [one for one in finalists if one.key in point["members"]]
        started, finished = span_of(used)
        values = {f"{split}_{name}": value for split in ("validation", "test") for name, value in point[split].items()}
        values |= point["costs"] | {"passes": float(point["passes"])}
        for method, found in point["conformal"].items():
            values |= {f"test_{method}_{name}": found[name] for name in ("coverage", "mean_size")} if found else {}
        yield Run(
            key=f"predictors/{point['name']}",
            name=point["title"][:MOST_NAME],
            status="FINISHED",
            started_ms=started,
            finished_ms=finished,
            params=_cut({"kind": point["kind"], "members": ", ".join(point["members"])}),
            points=tuple(Point(name, value, 0, finished) for name, value in values.items() if math.isfinite(value)),
            tags=_cut({"paretune.trial": f"predictors/{point['name']}", "paretune.phase": "predictors",
                       "pareto": "predictor"}),
        )  # fmt: skip


def run_of_study(spec: StudySpec, front: Front | None, status: object, span: tuple[int, int]) -> Run:
    """Return the run that holds the others.

    Args:
        spec: The study's spec.
        front: Its front, where there is one by now.
        status: What the driver noted last; the study goes on unless `has_ended` says otherwise.
        span: When its first trial began and its last was settled, as `span_of` gives it.
    """
    started, finished = span
    points = [Point("hypervolume", volume, count, started) for count, volume in (front.history if front else ())]
    return Run(
        key=STUDY_KEY,
        name=spec.name,
        status=_STUDY_STATUS.get(str(status), "RUNNING"),
        started_ms=started,
        finished_ms=finished if has_ended(status) else None,
        params=_cut(_study_params(spec)),
        points=tuple(points),
        tags=_cut(_study_tags(front)),
    )


def has_ended(status: object) -> bool:
    """Whether what the driver noted means that the study has come to its end."""
    return str(status) in _STUDY_STATUS


def span_of(trials: Sequence[Trial]) -> tuple[int, int]:
    """Return when the first trial began and the last was settled, in milliseconds since 1970; zeros without trials."""
    started = min((_milliseconds(one.started) for one in trials), default=0)
    return started, max((_milliseconds(one.finished) for one in trials), default=0) or started


def study_files(spec: StudySpec, environment: Any) -> dict[str, str]:
    """Return the files that say what was run, and where."""
    data = spec.to_json()
    return {
        "study.yaml": yaml.safe_dump(data, sort_keys=False, allow_unicode=True),
        "study.json": json.dumps(data, indent=2, allow_nan=False) + "\n",
        "environment.json": json.dumps(environment, indent=2, sort_keys=True, default=str) + "\n",
    }


def _status(trial: Trial) -> RunStatus:
    return "KILLED" if trial.cause == "interrupted" else _TRIAL_STATUS[trial.state]


def _name(trial: Trial) -> str:
    parts = write_parts(trial.candidate)
    heads = {
        "search": f"{trial.number:03d} {parts}",
        "references": f"reference {trial.origin or parts}",
        "finalists": f"finalist {trial.origin}, seed {trial.seed}: {parts}",
    }
    return heads[trial.phase][:MOST_NAME]


def _tags(trial: Trial, tag: Tag | None) -> dict[str, str]:
    tags = {
        "paretune.trial": trial.key,
        "paretune.phase": trial.phase,
        "paretune.candidate": trial.candidate.sha256,
        "paretune.notation": write(trial.candidate),
        "paretune.origin": trial.origin,
        "paretune.cause": trial.cause or "",
        "paretune.message": redact(trial.message),
        "pareto": _pareto(trial, tag) or "",
    }
    return {name: value for name, value in tags.items() if value}


def _pareto(trial: Trial, tag: Tag | None) -> str | None:
    """Say what a trial counts as. Complete references and finalists stand beside the front, and are called so."""
    if not trial.is_settled:
        return None
    if trial.state == "partial":
        return tag or trial.state
    if trial.state != "complete":
        return trial.state
    return tag if trial.phase == "search" else trial.phase.removesuffix("s")


def _params(trial: Trial) -> dict[str, str]:
    recipe = trial.candidate.recipe
    return {
        "notation": write_parts(trial.candidate),
        "method": trial.candidate.method,
        "seed": str(trial.seed),
        **dict(_part_params(trial.candidate)),
        "head_learning_rate": repr(recipe.head_learning_rate),
        "weight_decay": repr(recipe.weight_decay),
        "label_smoothing": repr(recipe.label_smoothing),
        "dropout": repr(recipe.dropout),
        "mixup": repr(recipe.mixup),
        "training_share": repr(recipe.training_share),
    }


def _part_params(candidate: Candidate) -> Iterator[tuple[str, str]]:
    """Yield the knobs, place and learning rate of each part; the second use of a method is called `lora.2`."""
    names = [part.method for part in candidate.parts]
    for position, (part, rate) in enumerate(zip(candidate.parts, candidate.recipe.learning_rates, strict=True)):
        earlier = names[:position].count(part.method)
        label = f"{part.method}.{earlier + 1}" if earlier else part.method
        yield from ((f"{label}.{name}", json.dumps(value).strip('"')) for name, value in part.knobs)
        yield f"{label}.placement", str(part.placement)
        yield f"{label}.learning_rate", repr(rate)


def _points(trial: Trial, started: int, finished: int) -> Iterator[Point]:
    """Yield every rung's metrics; one that is no matter of a split only where it changed. Rungs are timed evenly."""
    yield from (Point(name, value, 0, started) for name, value in _predicted(trial))
    costs: dict[str, float] = {}
    for score in trial.scores:
        moment = started + round((finished - started) * score.step / trial.steps) if trial.steps else started
        fresh = {name: value for name, value in _named(score) if costs.get(name) != value}
        costs |= {name: value for name, value in fresh.items() if name in METRICS}
        yield from (Point(name, value, score.step, moment) for name, value in fresh.items())
    if trial.test:
        quality = (pair for pair in _named(trial.test) if pair[0].startswith("test_"))
        yield from (Point(name, value, trial.test.step, finished) for name, value in quality)


def _predicted(trial: Trial) -> Iterator[tuple[str, float]]:
    for name, value in (trial.cost.values if trial.cost else {}).items():
        if name == "peak_memory_bytes":
            yield f"predicted_{name}", value
        elif not trial.scores:
            yield name, value


def _named(score: Score) -> Iterator[tuple[str, float]]:
    for name, value in score.values.items():
        yield f"{score.split}_{name}" if METRICS[name].on_split else name, value
    yield "fidelity", score.fidelity


def _study_params(spec: StudySpec) -> dict[str, str]:
    budgets = spec.budgets.model_dump(mode="json", exclude_none=True)
    return {
        "model": spec.model.name,
        "dataset": ", ".join(one.dataset or json.dumps(one.files) for one in spec.task.sources.values()),
        "objectives": ", ".join(f"{one.direction} {one.metric}" for one in spec.objectives),
        "space.preset": spec.space.preset,
        "search.sampler": spec.search.sampler,
        "search.seed": str(spec.search.seed),
        "spec_sha256": spec.sha256,
        **{f"budgets.{name}": str(value) for name, value in budgets.items() if name not in _EXTENDABLE},
    }


def _study_tags(front: Front | None) -> dict[str, str]:
    tags = {"paretune.trial": STUDY_KEY}
    if front is None:
        return tags
    tags["paretune.front"] = ", ".join(str(member.number) for member in front.members)
    if front.pick:
        tags |= {"paretune.pick": str(front.pick.number), "paretune.pick_reason": front.pick.reason}
        tags["mlflow.note.content"] = _note(front)
    return tags


def _note(front: Front) -> str:
    """Write the description that stands on top of the study's page."""
    assert front.pick is not None
    chosen = next(one for one in (*front.members, *front.neighbours) if one.number == front.pick.number)
    lines = [
        f"**Pick: trial {chosen.number}**, `{write_parts(chosen.trial.candidate)}`",
        f"{front.pick.reason[:1].upper()}{front.pick.reason[1:]}.",
        "The front is in the artifact `pareto.html`.",
    ]
    return "\n\n".join(lines)


def _cut(pairs: Mapping[str, str]) -> dict[str, str]:
    return {name: value[:MOST_CHARACTERS] for name, value in pairs.items()}


def _milliseconds(moment: datetime | None) -> int:
    """Milliseconds since 1970; the storage keeps local time."""
    return math.floor(moment.timestamp() * 1000) if moment else 0
