"""Runs jobs on a simulated clock: several at once, in the order in which they would end, without waiting.

It stands in for Ray's door where an evaluator knows how long it would take. The work that it runs is the real one:
sampler, screening, early stopping, budgets and storage. The same seed gives the same study to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from evaluators.evaluation import Run
from evaluators.score import Score
from orchestrator.jobs import Failure, Job, Work, failure_of
from search_space.candidate import Candidate


class SimulatedClock:
    """Seconds since the start of a simulation."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.seconds


class TimedRun(Run, Protocol):
    """A run that knows how long it would take."""

    def seconds(self, step: int) -> float:
        """Return how long training up to `step` takes from where it is; infinite when it hangs."""


class TimedEvaluator(Protocol):
    """Starts such runs."""

    def start(self, candidate: Candidate, seed: int) -> TimedRun:
        """Begin the training of a candidate."""


@dataclass(eq=False)
class _Running:
    """A job on its way to its next rung."""

    due: float
    number: int
    job: Job
    run: TimedRun
    rung: int
    deadline: float


class Simulation:
    """Jobs on a simulated clock.

    Args:
        evaluator: Trains, and knows how long that would take.
        clock: Is set to when each thing happens.
        at_once: Jobs at once.
        limit: Most seconds of a job.
    """

    def __init__(
        self, evaluator: TimedEvaluator, clock: SimulatedClock, at_once: int, limit: float | None = None
    ) -> None:
        self.evaluator, self.clock, self.at_once, self.limit = evaluator, clock, at_once, limit
        self._running: list[_Running] = []
        self._started = 0

    def run(self, work: Work, until: Callable[[], bool] = lambda: False) -> bool:
        """Run jobs until there are none, the work says stop, or `until` does. Returns whether it ran to its end."""
        self._running.clear()
        while not (work.should_stop() or until()):
            self._fill(work)
            if not self._running:
                return True
            self._next(work)
        return False

    def _fill(self, work: Work) -> None:
        while len(self._running) < self.at_once and (job := work.next_job()) is not None:
            try:
                run = self.evaluator.start(job.candidate, job.seed)
            except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
                work.on_end(job, failure_of(error))
                continue
            now = self.clock.seconds
            deadline = now + self.limit if self.limit is not None else float("inf")
            self._started += 1
            one = _Running(now + run.seconds(job.rungs[0]), self._started, job, run, 0, deadline)
            self._running.append(one)

    def _next(self, work: Work) -> None:
        """Go to what happens next: a job reaches a rung, or its limit."""
        one = min(self._running, key=lambda running: (min(running.due, running.deadline), running.number))
        self._running.remove(one)
        self.clock.seconds = max(self.clock.seconds, min(one.due, one.deadline))
        if one.due > one.deadline:
            work.on_end(one.job, Failure("timeout", f"longer than {self.limit:g} s, the limit of a trial"))
            return
        try:
            score = one.run.advance(one.job.rungs[one.rung])
        except SystemExit:
            work.on_end(one.job, Failure("crashed", "its process died"))
        except Exception as error:  # noqa: BLE001
            work.on_end(one.job, failure_of(error))
        else:
            self._report(work, one, score)

    def _report(self, work: Work, one: _Running, score: Score) -> None:
        goes_on = work.on_score(one.job, score)
        last = one.rung == len(one.job.rungs) - 1
        if last and one.job.test:
            work.on_score(one.job, one.run.test())
        if last or not goes_on:
            work.on_end(one.job, None)
            return
        one.rung += 1
        one.due = self.clock.seconds + one.run.seconds(one.job.rungs[one.rung])
        self._running.append(one)
