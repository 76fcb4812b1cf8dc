"""Ray's door in one process: the same jobs, one after another, so that a study takes a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evaluators.evaluation import Evaluator, EvaluatorSpec, build_evaluator
from evaluators.score import Score
from orchestrator import study
from orchestrator.crew import CrewTraining, at_rung, finished, started
from orchestrator.home import Home
from orchestrator.jobs import Failure, Job, Work, failure_of
from orchestrator.spec import ResourcesSpec, StudySpec, parse
from orchestrator.storage import Storage, StudyStore
from orchestrator.trial import Phase, Trial

METHODS: dict[str, Any] = {"lora": {"r": [1, 2, 4, 8]}, "ia3": {}, "bitfit": {}, "ln_tuning": {}, "vera": {}}


def spec_of(name: str = "demo", **given: Any) -> StudySpec:
    """A study that trains nothing: twelve trials of 90 steps in three rungs, two finalists on two seeds."""
    finalists, stopping = {"count": 2, "seeds": 2}, {"grace": 2}
    search = {"sampler": "tpe", "startup_trials": 4, "finalists": finalists, "early_stopping": stopping}
    data = {
        "name": name,
        "model": "-",
        "task": "-",
        "space": {"methods": METHODS, "hybrids": ["lora + bitfit"]},
        "budgets": {"trials": 12},
        "training": {"steps": 90},
        "synthetic": {},
    }
    return parse(data | given | {"search": search | given.get("search", {})})


class Watched:
    """Remembers what it is told, and does something at each change."""

    def __init__(self) -> None:
        self.phases: list[tuple[Phase, int]] = []
        self.changes: list[Trial] = []
        self.at_change: Any = lambda trial: None

    def phase(self, name: Phase, planned: int) -> None:
        self.phases.append((name, planned))

    def changed(self, trial: Trial) -> None:
        self.changes.append(trial)
        self.at_change(trial)


@contextmanager
def cluster(_resources: ResourcesSpec) -> Iterator[int]:
    """One process has room for one trial."""
    yield 1


def run_jobs(work: Work, spec: EvaluatorSpec, _resources: ResourcesSpec, _at_once: int, _seconds: float | None) -> bool:
    """Run jobs as Ray's door does, faults that end a process excepted."""
    evaluator = build_evaluator(spec)
    while not work.should_stop():
        job = work.next_job()
        if not isinstance(job, Job):
            return True
        if job.mates:
            run_crew(work, evaluator, job)
            continue
        try:
            whole = _run(work, evaluator, job)
        except Exception as error:  # noqa: BLE001
            work.on_end(job, failure_of(error))
        else:
            if whole:
                work.on_end(job, None)
    return False


def run_crew(work: Work, evaluator: Evaluator, job: Job) -> None:
    """Train a job and its mates as an actor and Ray's door do."""
    crew, jobs = CrewTraining(evaluator, job.crew), {one.key: one for one in job.crew}
    while not crew.over and not work.should_stop():
        for key, report in crew.advance().items():
            goes_on = "score" in report and work.on_score(jobs[key], Score.from_json(report["score"]))
            if "test" in report:
                work.on_score(jobs[key], Score.from_json(report["test"]))
            if "failure" in report or report["last"] or not goes_on:
                work.on_end(jobs[key], Failure(**report["failure"]) if "failure" in report else None)
                crew.drop([key])


def _run(work: Work, evaluator: Evaluator, job: Job) -> bool:
    run = started(evaluator, job)
    for rung in range(len(job.rungs)):
        if work.should_stop():
            return False
        last = rung == len(job.rungs) - 1
        report = finished(run, job) if last else at_rung(run, job, rung)
        goes_on = work.on_score(job, Score.from_json(report["score"]))
        if "test" in report:
            work.on_score(job, Score.from_json(report["test"]))
        if not goes_on:
            break
    return True


class NoRecorder:
    """Records nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def record_trial(self, trial: Trial) -> None:
        """Take no note."""

    def record_study(self, front: object) -> None:
        """Take no note."""

    def record_all(self) -> None:
        """Take no note."""


def store_of(home: Home, spec: StudySpec) -> StudyStore:
    """Create the study in the home's storage."""
    return Storage(home.storage_url).create(spec)


def forget_settings(patch: pytest.MonkeyPatch) -> None:
    """Take away what the environment says of storages and clusters."""
    for name in ("PARETUNE_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        patch.delenv(name, raising=False)


def unrecorded(patch: pytest.MonkeyPatch) -> None:
    """Let studies write nothing to MLflow, and draw nothing: these have tests of their own, and take longest."""
    patch.setattr(study, "Recorder", NoRecorder)
    patch.setattr(study, "pareto_files", lambda *_: {})


def in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Let studies train in this process, and record nothing."""
    patch.setattr(study, "cluster", cluster)
    patch.setattr(study, "run_jobs", run_jobs)
    unrecorded(patch)
