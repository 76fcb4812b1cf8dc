"""The jobs of a study's phases: what is trained next, what a score means for it, how a trial is settled."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from evaluators.score import Score
from orchestrator.beginnings import beginnings
from orchestrator.feasibility import commonest
from orchestrator.front import is_feasible
from orchestrator.jobs import Failure, Job
from orchestrator.preparation import Prepared
from orchestrator.proposals import Proposals
from orchestrator.rungs import Rungs
from orchestrator.samplers import build_sampler, derived_seed
from orchestrator.screening import MemoryFactor, Refusals, excesses, foreseen
from orchestrator.step_budget import SPENT, StepBudget
from orchestrator.storage import Phase, StudyStore, Trial
from search_space.budgets import violations
from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError

_MOST_REJECTED = 300
_POLL_SECONDS = 1.0


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
        phase, number = _place(job)
        if score.split != "test":
            score = score.beside(self.bench.store.trial(phase, number).cost)
        self._note(self.bench.store.report(phase, number, score))
        return score

    def on_end(self, job: Job, failure: Failure | None) -> None:
        """Settle the trial."""
        phase, number = _place(job)
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
        return "stopped at its rung"

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
        phase, number = _place(job)
        self._tell(self.bench.store.finish(phase, number, "partial", "interrupted", reason))

    def _begin(self, job: Job) -> Job:
        for one in job.crew:
            self.running[one.key] = one
            self._note(self.bench.store.trial(*_place(one)))
        return job

    def _note(self, trial: Trial) -> None:
        """A trial was started, scored or settled."""
        self.bench.watcher.changed(trial)

    def _tell(self, trial: Trial) -> None:
        self._note(trial)
        self.bench.settled(trial)


class SearchWork(PhaseWork):
    """Jobs that the sampler proposes, screened by cost, stopped early by rungs, bounded by budgets."""

    def __init__(self, bench: Bench, jobs: Iterable[Job], rungs: Rungs) -> None:
        super().__init__(bench, "search", jobs)
        self.rungs = rungs
        self._budgets = bench.store.spec.budgets
        trials = bench.store.trials()
        self._trained = sum(one.state != "infeasible" for one in trials)
        self._steps = StepBudget(self._budgets.steps, rungs.steps)
        self._unpaid: set[str] = set()
        self._asked = len(bench.store.studies["search"].get_trials(deepcopy=False))
        self._known = {one.candidate.sha256: one.number for one in trials}
        self._tried = {one.number: one for one in trials}
        self._memory = MemoryFactor(self._budgets.memory_factor)
        self._refusals = Refusals(bench.prepared.limits)
        self._nothing_new = False
        self._proposals = Proposals(bench.store.spec, bench.prepared, beginnings(bench.store, bench.prepared))
        for trial in trials:
            feasible = is_feasible(trial, bench.prepared.limits)
            for score in trial.scores:
                rungs.record(trial.number, _with_predictions(score, trial), feasible=feasible)
            self._memory.note(trial)
            self._refusals.note(trial)
            if trial.state != "running":
                self._steps.settled(trial)

    @property
    def left(self) -> int:
        """Trials that the budgets still pay for, running ones not counted."""
        return max(0, self._budgets.trials - self._trained) if self._steps.pays else 0

    def next_job(self) -> Job | None:
        """Return a job that waits, or a new one from the sampler while the budgets last; trial 0 goes before all."""
        while self.waiting and self._asked:
            job = self.waiting.popleft()
            if _place(job)[0] != "search" or self._steps.begins(job.key):
                return self._begin(job)
            self._interrupt(job, SPENT)
        if not self.left or self._steps.holds:
            return None
        proposed = self._propose()
        if proposed is None:
            return None
        self._steps.begins(proposed.key)
        return self._begin(proposed)

    def more_later(self) -> bool:
        """Whether a candidate waits until the budget of steps pays for it beside those that run."""
        return self.left > 0 and self._steps.holds

    def on_score(self, job: Job, score: Score) -> bool:
        """Keep the score and say whether the candidate goes on."""
        score = self._keep(job, score)
        phase, number = _place(job)
        if phase != "search":
            return True
        self._steps.reached(job.key, score.step)
        if not score.full:
            kept = self.rungs.goes_on(number, _with_predictions(score, self._tried[number]))
            return kept and self._paid(job, score)
        limits = self.bench.prepared.limits
        self.bench.store.constrain(number, violations(limits, score.values))
        trial = self._tried[number]
        self.rungs.record(number, _with_predictions(score, trial), feasible=is_feasible(trial, limits))
        return False

    def _paid(self, job: Job, score: Score) -> bool:
        if self._steps.goes_on(job.key, score):
            return True
        self._unpaid.add(job.key)
        return False

    def _why_stopped(self, job: Job) -> str:
        return SPENT if job.key in self._unpaid else super()._why_stopped(job)

    def _note(self, trial: Trial) -> None:
        """Keep what was tried, for what is proposed next."""
        super()._note(trial)
        if trial.phase == "search":
            self._tried[trial.number] = trial
            self._memory.note(trial)
            self._refusals.note(trial)
            if trial.state != "running":
                self._steps.settled(trial)

    def _propose(self) -> Job | None:
        """Ask the sampler until a candidate is within budget and new; None when the space seems used up.

        Raises:
            EmptySpaceError: It gave none, and none was trained before.
        """
        nearest: tuple[float, str] | None = None
        for _ in range(_MOST_REJECTED):
            if self._used_up():
                break
            number, candidate, origin = self._ask()
            why, excess = self._screen(number, candidate, origin)
            if not why:
                self._trained += 1
                return self._job(number, candidate)
            self._tell(self.bench.store.finish("search", number, "infeasible", message=why))
            if excess is not None and (nearest is None or excess < nearest[0]):
                nearest = (excess, why)
        if self._trained == 0:
            self._refuse(nearest)
        return None

    def _refuse(self, nearest: tuple[float, str] | None) -> None:
        """Refuse a space that gave nothing to train, by the nearest to its budgets or the commonest reason."""
        many = len(self._tried)
        if nearest is not None:
            raise EmptySpaceError(
                f"none of {many} candidates fits the budgets; the nearest: {nearest[1]}. "
                "Raise that budget or narrow the space to smaller sizes and fewer layers"
            )
        reasons = Counter(one.message for one in self._tried.values())
        raise EmptySpaceError(f"space: no candidate of it can be trained: {commonest(reasons, many)}")

    def _ask(self) -> tuple[int, Candidate, str]:
        space, store = self.bench.prepared.space, self.bench.store
        sampler = build_sampler(store.spec.search, self._asked)
        proposed = self._proposals.propose(self._asked, list(self._tried.values()), self._known)
        self._asked += 1
        if proposed is None:
            return *store.ask(space, sampler, exchange=self._near), ""
        return *store.ask(space, sampler, self._near(proposed.candidate)), proposed.origin

    def _near(self, candidate: Candidate) -> Candidate:
        """Return the candidate if it fits the budget of parameters and is new, else one near it that does and is.

        Where a table is searched, the nearest of its points.
        """
        points, seed = self.bench.prepared.points, self.bench.store.spec.search.seed
        if points is not None:
            return points.nearest(candidate, self._known) or candidate
        fitting = self.bench.prepared.fitting(derived_seed(seed, self._asked), self._refusals.under(self._memory.value))
        found = fitting.near(candidate, self._known)
        self._nothing_new = found is None
        return found or candidate

    def _used_up(self) -> bool:
        points = self.bench.prepared.points
        if points is None:
            return self._nothing_new
        return all(one.sha256 in self._known for one in points.candidates)

    def _screen(self, number: int, candidate: Candidate, origin: str) -> tuple[str, float | None]:
        """Start a drawn trial in the storage. Returns why it is not trained, or an empty text, and its excess."""
        store, limits = self.bench.store, self.bench.prepared.limits
        seed = store.spec.search.seed
        try:
            cost = self.bench.prepared.cost(candidate, self._memory.value)
        except (UnsupportedError, PlacementError) as error:
            store.start(number, candidate, None, seed, {}, origin)
            return str(error), None
        known = foreseen(cost, self._memory.value)
        excess = violations(limits, known)
        store.start(number, candidate, cost, seed, excess, origin)
        if (earlier := self._known.setdefault(candidate.sha256, number)) != number:
            return f"the same candidate as trial {earlier}", None
        over = excesses(limits, known).values()
        return "over budget: " + ", ".join(over) if over else "", max(excess.values(), default=0.0)

    def _job(self, number: int, candidate: Candidate) -> Job:
        folder = self.bench.folder / "search" / str(number)
        store = self.bench.store
        cost = store.trial("search", number).cost
        parts = cost.accumulation if cost else None
        return Job(
            f"search/{number}", candidate, store.spec.search.seed, self.rungs.steps, str(folder), accumulation=parts
        )


def _with_predictions(score: Score, trial: Trial) -> Score:
    """Return a score with what was predicted of its candidate and is not measured at that rung: bytes, memory.

    So a rung knows more objectives. What lies between prediction and measurement counts as gained by training.
    """
    predicted = trial.cost.values if trial.cost else {}
    return replace(score, values={**predicted, **score.values})


def _place(job: Job) -> tuple[Phase, int]:
    phase, _, number = job.key.partition("/")
    return phase, int(number)  # type: ignore[return-value]
