"""A crew as an actor trains it: jobs that share a forward pass as far as that is faster, each with its own end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluators.evaluation import Crew, Evaluator, Run
from evaluators.score import GAIN, Score
from orchestrator.jobs import Job, failure_of

Report = dict[str, Any]
"""What is said of a job, as JSON: its `score`, at its end also `test`, and `last`; or its `failure`."""


def started(evaluator: Evaluator, job: Job) -> Run:
    """Begin the training of a job, or go on from what is kept of it."""
    run = evaluator.start(job.candidate, job.seed, job.accumulation)
    if job.goes_on and job.folder:
        run.resume(Path(job.folder))
    return run


def at_rung(run: Run, job: Job, rung: int) -> Report:
    """Train a run to a rung before its last, keep what it goes on from where the job says so, and return its report."""
    report = {"score": run.advance(job.rungs[rung]).to_json()}
    if job.keeps and job.folder:
        run.pause(Path(job.folder))
    return report


def finished(run: Run, job: Job) -> Report:
    """Train a run to its last rung, keep what the job wants kept, and return what it reports."""
    report = {"score": run.advance(job.rungs[-1]).to_json()}
    if job.folder:
        run.save(Path(job.folder))
    if job.test:
        report["test"] = run.test(Path(job.folder) if job.folder else None).to_json()
    return report


class CrewTraining:
    """A job and its mates, brought from rung to rung. What fails in one of them is that one's result.

    Where the memory does not hold all of them at once, they are trained one after another, from the beginning.
    """

    def __init__(self, evaluator: Evaluator, jobs: Sequence[Job]) -> None:
        self._evaluator = evaluator
        self._left = list(jobs)
        self._rung = dict.fromkeys((job.key for job in jobs), 0)
        self._runs: dict[str, Run] = {}
        self._crew: Crew | None = None
        self._begun = False
        self._gain: float | None = None

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        return not self._left

    def drop(self, keys: Collection[str]) -> None:
        """Let jobs go that were stopped at a rung."""
        for job in [one for one in self._left if one.key in keys]:
            self._end(job)

    def advance(self) -> dict[str, Report]:
        """Bring all jobs to their next rung, or one of them where they are trained one after another.

        Returns:
            What is said of each that was trained, by the job's key.
        """
        failures: dict[str, Report] = {}
        try:
            if not self._begun:
                failures = self._begin()
            if self._crew is not None and self._left:
                self._crew.train(self._next_step(self._left[0]))
                self._gain = self._crew.gain
        except Exception as error:
            if failure_of(error).cause != "out_of_memory":
                raise
            self._scatter()
        trained = list(self._left if self._crew is not None else self._left[:1])
        return failures | {job.key: self._to_next_rung(job) for job in trained}

    def _begin(self) -> dict[str, Report]:
        """Start all jobs. Returns those that could not be."""
        failures = {}
        for job in list(self._left):
            try:
                self._runs[job.key] = started(self._evaluator, job)
            except Exception as error:
                failure = failure_of(error)
                if failure.cause == "out_of_memory":
                    raise
                failures[job.key] = {"failure": failure.__dict__}
                self._end(job)
        self._begun = True
        self._crew = self._evaluator.crew([self._runs[job.key] for job in self._left])
        return failures

    def _scatter(self) -> None:
        """Give back what all hold, to train one after another."""
        self._begun, self._crew, self._gain = True, None, 1.0
        self._runs.clear()

    def _to_next_rung(self, job: Job) -> Report:
        """Train a job to its next rung, from its beginning where its run was given up."""
        try:
            run = self._runs.get(job.key) or self._runs.setdefault(job.key, started(self._evaluator, job))
            last = self._rung[job.key] == len(job.rungs) - 1
            report = finished(run, job) if last else {"score": run.advance(self._next_step(job)).to_json()}
            self._rung[job.key] += 1
            report = {**report, "score": self._with_gain(report["score"]), "last": last}
        except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
            report, last = {"failure": failure_of(error).__dict__}, True
        if last:
            self._end(job)
        return report

    def _with_gain(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a score, as JSON, with what the crew gains."""
        score = Score.from_json(data)
        return data if self._gain is None else replace(score, values={**score.values, GAIN: self._gain}).to_json()

    def _next_step(self, job: Job) -> int:
        return job.rungs[self._rung[job.key]]

    def _end(self, job: Job) -> None:
        self._left.remove(job)
        run = self._runs.pop(job.key, None)
        if self._crew is not None and run is not None:
            self._crew.drop(run)
