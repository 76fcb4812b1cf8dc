"""Ray's door in one process: the same jobs, one after another, so that a study takes a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluators.evaluation import Evaluator, EvaluatorSpec, build_evaluator
from orchestrator.home import Home
from orchestrator.jobs import Job, Work, failure_of
from orchestrator.spec import ResourcesSpec, StudySpec, parse
from orchestrator.storage import Phase, Storage, StudyStore, Trial

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
    """Train a job and its mates as an actor does."""
    runs = [evaluator.start(one.candidate, one.seed, one.accumulation) for one in job.crew]
    evaluator.train_together(runs)
    for one, run in zip(job.crew, runs, strict=True):
        work.on_score(one, run.advance(one.rungs[-1]))
        if one.test:
            work.on_score(one, run.test(None))
        work.on_end(one, None)


def _run(work: Work, evaluator: Evaluator, job: Job) -> bool:
    run = evaluator.start(job.candidate, job.seed, job.accumulation)
    for step in job.rungs:
        if work.should_stop():
            return False
        goes_on = work.on_score(job, run.advance(step))
        if step == job.rungs[-1]:
            if job.folder:
                run.save(Path(job.folder))
            if job.test:
                work.on_score(job, run.test(Path(job.folder) if job.folder else None))
        elif not goes_on:
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
