"""The jobs of a study's phases: what is trained next, what a score means for it, how a trial is settled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evaluators.score import Score
from orchestrator.jobs import Failure, Job
from orchestrator.preparation import Prepared
from orchestrator.storage import StudyStore
from orchestrator.trial import Phase, Trial

_POLL_SECONDS = 1.0
STOPPED = "stopped at its rung"


class Watcher(Protocol):
    """Is told what happens in a study, as it happens."""

    def phase(self, name: Phase, planned: int) -> None:
        """A phase begins, or begins again, with so many trials to train."""

    def changed(self, trial: Trial) -> None:
        """A trial was started, scored or settled."""


class Stop:
    """Why a study should stop, from whichever side: a signal, a request in the storage, a budget of time.

    Attributes:
        reason: In words; empty while it goes on.
        by_user: Whether a person asked, so that running trials are kept to be trained again.
    """

    def __init__(
        self, store: StudyStore, seconds: float | None, spent: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.reason = ""
        self.by_user = False
        self._store = store
        self._clock = clock
        self._left = None if seconds is None else seconds - spent
        self._polled = clock()
        self.begin()

    def begin(self) -> None:
        """Let the budget of time run from now on."""
        self._deadline = None if self._left is None else self._clock() + self._left

    def ask(self, reason: str) -> None:
        """Ask to stop, as a person."""
        self.reason, self.by_user = reason, True

    def look(self) -> bool:
        """Whether to stop; looks at the clock, and about once a second at the storage."""
        now = self._clock()
        if not self.reason and now - self._polled > _POLL_SECONDS:
            self._polled = now
            if self._store.noted("stop"):
                self.ask("stopped on request")
        if not self.reason and self._deadline is not None and now >= self._deadline:
            self.reason = "the budget of time is spent"
        return bool(self.reason)


@dataclass
class Bench:
    """What all phases of a running study share."""

    store: StudyStore
    prepared: Prepared
    folder: Path
    watcher: Watcher
    stop: Stop
    settled: Callable[[Trial], None]


class PhaseWork:
    """Jobs that are known beforehand: references and finalists. The search builds on it."""

    phase: Phase

    def __init__(self, bench: Bench, phase: Phase, jobs: Iterable[Job]) -> None:
        self.bench = bench
        self.phase = phase
        self.waiting = deque(jobs)
        self.running: dict[str, Job] = {}

    def next_job(self) -> Job | None:
        """Return the next job that is known, or None."""
        if not self.waiting:
            return None
        return self._begin(self.waiting.popleft())

    def more_later(self) -> bool:
        """Whether a job waits for others; none does here."""
        return False

    def on_score(self, job: Job, score: Score) -> bool:
        """Keep the score; these jobs are trained to the end."""
        self._keep(job, score)
        return True

    def _keep(self, job: Job, score: Score) -> Score:
        """Keep a score, and return it with what is known of its candidate from shapes."""
        phase, number = place_of(job)
        if score.split != "test":
            score = score.beside(self.bench.store.trial(phase, number).cost)
        self._note(self.bench.store.report(phase, number, score))
        return score

    def on_end(self, job: Job, failure: Failure | None) -> None:
        """Settle the trial."""
        phase, number = place_of(job)
        store = self.bench.store
        self.running.pop(job.key, None)
        score = store.trial(phase, number).score
        if failure is not None:
            self._tell(store.finish(phase, number, "failed", failure.cause, failure.message))
        elif score is not None and score.full and (missing := self._unmeasured(score)):
            why = f"the evaluator did not report {missing}, which is an objective"
            self._tell(store.finish(phase, number, "failed", "unmeasured", why))
        elif score is not None and score.full:
            self._tell(store.finish(phase, number, "complete"))
        else:
            self._tell(store.finish(phase, number, "partial", message=self._why_stopped(job)))

    def _why_stopped(self, job: Job) -> str:
        return STOPPED

    def _unmeasured(self, score: Score) -> str:
        """Return the objectives that a score lacks, as text."""
        return ", ".join(one.metric for one in self.bench.store.spec.objectives if one.metric not in score.values)

    def should_stop(self) -> bool:
        """Whether to drop everything now."""
        return self.bench.stop.look()

    def settle(self) -> None:
        """After a budget ended the phase: settle what was running as partial, as far as it came, and what waited."""
        reason = self.bench.stop.reason
        for job in list(self.running.values()):
            self._interrupt(job, reason)
        for job in (one for waiting in self.waiting for one in waiting.crew):
            self._interrupt(job, f"not started: {reason}")
        self.running.clear()
        self.waiting.clear()

    def _interrupt(self, job: Job, reason: str) -> None:
        phase, number = place_of(job)
        self._tell(self.bench.store.finish(phase, number, "partial", "interrupted", reason))

    def _begin(self, job: Job) -> Job:
        for one in job.crew:
            self.running[one.key] = one
            self._note(self.bench.store.trial(*place_of(one)))
        return job

    def _note(self, trial: Trial) -> None:
        """A trial was started, scored or settled."""
        self.bench.watcher.changed(trial)

    def _tell(self, trial: Trial) -> None:
        self._note(trial)
        self.bench.settled(trial)


def place_of(job: Job) -> tuple[Phase, int]:
    """Return the phase and the number of a job's trial."""
    phase, _, number = job.key.partition("/")
    return phase, int(number)  # type: ignore[return-value]
