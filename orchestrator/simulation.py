"""Studies on a simulated clock: jobs run several at once, in the order in which they would end, without waiting.

It stands in for Ray's door where an evaluator knows how long it would take. The work that it runs is the real one:
sampler, screening, early stopping, budgets and storage. The same seed gives the same study to the last digit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evaluators.evaluation import EvaluatorSpec, Run
from evaluators.score import Score
from evaluators.tabulated import Fault, Table, TabulatedCoster, TabulatedEvaluator
from orchestrator.early_stopping import rungs_of
from orchestrator.jobs import Failure, Job, Work, failure_of
from orchestrator.preparation import Prepared
from orchestrator.search_work import SearchWork
from orchestrator.spec import StudySpec
from orchestrator.storage import IN_MEMORY, Storage, StudyStore
from orchestrator.trial import Phase, Trial
from orchestrator.work import Bench, Stop, Watcher
from search_space.candidate import Candidate
from search_space.points import Points
from search_space.space import Space


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
        self._mates: deque[Job] = deque()
        self._kept: dict[str, tuple[TimedRun, float | None]] = {}
        self._started = 0

    def run(self, work: Work, until: Callable[[], bool] = lambda: False) -> bool:
        """Run jobs until there are none, the work says stop, or `until` does. Returns whether it ran to its end."""
        self._running.clear()
        self._mates.clear()
        while not (work.should_stop() or until()):
            self._fill(work)
            if not self._running:
                return True
            one = self._next()
            if work.should_stop():  # it would have been stopped on its way there
                return False
            self._go_on(work, one)
        return False

    def _fill(self, work: Work) -> None:
        while len(self._running) < self.at_once and (job := self._next_job(work)) is not None:
            kept = self._kept.pop(job.key, None)
            try:
                run, limit = kept or (self.evaluator.start(job.candidate, job.seed), self.limit)
            except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
                work.on_end(job, failure_of(error))
                continue
            now = self.clock.seconds
            deadline = now + limit if limit is not None else float("inf")
            self._started += 1
            one = _Running(now + run.seconds(job.rungs[0]), self._started, job, run, 0, deadline)
            self._running.append(one)

    def _next_job(self, work: Work) -> Job | None:
        """Return a job without mates: they follow it, for what packing gains is not simulated."""
        if not self._mates and (job := work.next_job()) is not None:
            self._mates.extend(job.crew)
        return self._mates.popleft() if self._mates else None

    def _next(self) -> _Running:
        """Set the clock to what happens next: a job reaches a rung, or its limit."""
        one = min(self._running, key=lambda running: (min(running.due, running.deadline), running.number))
        self._running.remove(one)
        self.clock.seconds = max(self.clock.seconds, min(one.due, one.deadline))
        return one

    def _go_on(self, work: Work, one: _Running) -> None:
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
            if one.job.keeps and not last:
                left = None if self.limit is None else one.deadline - self.clock.seconds
                self._kept[one.job.key] = one.run, left
            work.on_end(one.job, None)
            return
        one.rung += 1
        one.due = self.clock.seconds + one.run.seconds(one.job.rungs[one.rung])
        self._running.append(one)


class Unwatched:
    """Nobody looks at a simulation."""

    def phase(self, name: Phase, planned: int) -> None:
        """Take no note."""

    def changed(self, trial: Trial) -> None:
        """Take no note."""


UNWATCHED = Unwatched()


def simulate(
    spec: StudySpec,
    space: Space,
    table: Table,
    *,
    at_once: int = 1,
    faults: Mapping[str, Fault] | None = None,
    store: StudyStore | None = None,
    until: Callable[[], bool] = lambda: False,
    watcher: Watcher = UNWATCHED,
) -> StudyStore:
    """Run the search of a study on a table, or go on with one that was cut off.

    Args:
        spec: The study; its rungs must be the table's.
        space: What the sampler draws from, bound to the table's model; draws are answered by the nearest point.
        table: What was trained.
        at_once: Trials at once.
        faults: What goes wrong on purpose, by the candidate's identity.
        store: The study in a storage; a new one in memory when None.
        until: Ends the simulation in the middle, as a killed driver would.
        watcher: Is told what happens.

    Returns:
        The study as the storage holds it.

    Raises:
        ValueError: The study's rungs are not the table's.
    """
    steps = spec.search.early_stopping.steps(table.header.rungs[-1])
    if not set(steps) <= set(table.header.rungs):
        raise ValueError(f"the table has rungs {table.header.rungs}, the study wants {steps}")
    prepared, evaluator = tabulated(spec, space, table), TabulatedEvaluator(table, faults)
    return simulate_with(spec, prepared, evaluator, at_once=at_once, store=store, until=until, watcher=watcher)


def simulate_with(
    spec: StudySpec,
    prepared: Prepared,
    evaluator: TimedEvaluator,
    *,
    at_once: int = 1,
    store: StudyStore | None = None,
    until: Callable[[], bool] = lambda: False,
    watcher: Watcher = UNWATCHED,
) -> StudyStore:
    """Run the search of a study with any evaluator that knows how long it takes; else as `simulate`."""
    store = store or Storage(IN_MEMORY).create(spec)
    store.abandon_unstarted()
    clock = SimulatedClock()
    stop = Stop(store, spec.budgets.time, 0.0, clock)
    bench = Bench(store, prepared, Path("simulated"), watcher, stop, lambda _trial: None)
    rungs = rungs_of(spec, prepared.evaluator.steps)
    work = SearchWork(bench, [], rungs)
    if Simulation(evaluator, clock, at_once, spec.budgets.trial_time).run(work, until) or bench.stop.reason:
        work.settle()
    return store


def tabulated(spec: StudySpec, space: Space, table: Table) -> Prepared:
    """Return a study prepared for a table: its points, its costs, its full training."""
    coster = TabulatedCoster(table, space.anatomy)
    evaluator = EvaluatorSpec(spec.model, spec.training, spec.calibration, tokens="", steps=table.header.rungs[-1])
    points = Points(space, [row.candidate for row in table.main()])
    return Prepared(space, coster, spec.budgets.limits(coster.parameters), evaluator, (), points)
