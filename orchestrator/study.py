"""The life of a study: prepared, searched, its finalists trained again, its front written; resumed where it was.

The storage is the truth: what it holds as running when a driver starts was cut off, and is trained again. Everything
else here can be made again from it.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from evaluators.evaluation import PREFIX_FOLDER, WEIGHTS_FOLDER
from evaluators.tracing import TracingProcess
from orchestrator.device_share import resources_of
from orchestrator.dominance import order
from orchestrator.early_stopping import rungs_of
from orchestrator.feasibility import commonest
from orchestrator.figures import pareto_files
from orchestrator.front import Front, front_of_study, is_feasible
from orchestrator.home import Home
from orchestrator.jobs import Job, in_crews
from orchestrator.preparation import Prepared, note_facts, prepare, study_home
from orchestrator.recorder import Recorder
from orchestrator.recording import Recording
from orchestrator.runner import cluster, run_jobs
from orchestrator.search_work import SearchWork
from orchestrator.storage import StudyStore
from orchestrator.trial import Phase, Trial
from orchestrator.work import Bench, PhaseWork, Stop, Watcher
from search_space.errors import EvaluationError, PlacementError, UnsupportedError
from search_space.files import atomic_write
from search_space.space import at_defaults

_RECORD_SECONDS = 20.0


def run_study(store: StudyStore, home: Home, watcher: Watcher) -> Front:
    """Run a study from wherever it is to its end, or to the stop that a person or a budget asks for.

    Args:
        store: The study, in the storage.
        home: Where its files go.
        watcher: Is told what happens.

    Returns:
        The front as it is now; `store.noted("status")` says whether the study is complete.

    Raises:
        StudyLockedError: Another process runs this study.
        ParetuneError: It cannot be prepared, or every candidate failed.
    """
    folder = study_home(home, store.name)
    with home.drive(store.name), store.storage.drive(store.name), TracingProcess() as process:
        store.note("status", "running")
        store.note("stop", False)
        try:
            prepared = prepare(store.spec, folder, store.noted("attention"), home.tables(), process)
            note_facts(store, prepared)
            recorder = Recorder(home.tracking_uri, home.artifacts, store, folder)
            with Recording(recorder) as recording, _without_shared(Path(prepared.evaluator.tokens)):
                driver = _Driver(store, prepared, recording, watcher, folder)
                with _stop_on_signals(driver.bench.stop):
                    driver.run()
                if not driver.bench.stop.by_user:
                    _require_trained(store)
        except BaseException as error:
            store.note("status", "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            if store.noted("backbone") is not None:
                Recorder(home.tracking_uri, home.artifacts, store, folder).record_all()
            raise
        store.note("status", "stopped" if driver.bench.stop.by_user else "complete")
        return _write_front(store, home, recorder)


def _require_trained(store: StudyStore) -> None:
    """Raise EvaluationError where candidates were trained and all of them failed, with what most of them failed of."""
    trained = [one for one in store.trials() if one.state != "infeasible"]
    if not trained or any(one.state != "failed" for one in trained):
        return
    causes = [one.cause for one in trained if one.cause is not None]
    reasons = Counter(f"{one.cause}, {_first_line(one.message)}" for one in trained)
    raise EvaluationError(
        Counter(causes).most_common(1)[0][0] if causes else "raised",
        f"every candidate that was trained failed: {commonest(reasons, len(trained))}",
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


class _Driver:
    """Runs the phases of one study in one process."""

    def __init__(
        self, store: StudyStore, prepared: Prepared, recording: Recording, watcher: Watcher, folder: Path
    ) -> None:
        self.store = store
        self.spec = store.spec
        self.prepared = prepared
        self.resources = resources_of(store.spec, prepared)
        self.recording = recording
        self._spent = float(store.noted("search_seconds") or 0.0)
        self._began: float | None = None
        self._recorded = time.monotonic()
        stop = Stop(store, self.spec.budgets.time, self._spent)
        self.bench = Bench(store, prepared, folder, watcher, stop, self._settled)

    def run(self) -> None:
        """Search, then train the finalists."""
        store = self.store
        store.abandon_unstarted()
        rungs = rungs_of(self.spec, self.prepared.evaluator.steps)
        search = SearchWork(self.bench, self._references(), rungs)
        finalists_cut_off = self._cut_off("finalists", rungs.steps[-1:])
        with cluster(self.resources) as at_once:
            if search.planned:
                self._search(search, at_once)
            if self.bench.stop.by_user:
                return
            jobs = [*finalists_cut_off, *self._finalists()]
            crews = in_crews(jobs, self.spec.resources.together)
            finalists = PhaseWork(self.bench, "finalists", crews)
            self.bench.watcher.phase("finalists", len(jobs))
            self.bench.stop = Stop(store, None, 0.0)
            self._run(finalists, at_once)

    def _search(self, work: SearchWork, at_once: int) -> None:
        self.bench.watcher.phase("search", work.planned)
        self._began = time.monotonic()
        self.bench.stop.begin()
        try:
            self._run(work, at_once)
        finally:
            self._note_time()
            self._began = None
        if not self.bench.stop.by_user:
            work.settle()

    def _note_time(self) -> None:
        """Keep how long the search has taken over all its runs, for the budget of time."""
        if self._began is not None:
            self.store.note("search_seconds", self._spent + time.monotonic() - self._began)

    def _run(self, work: PhaseWork, at_once: int) -> None:
        if isinstance(work, SearchWork) or work.waiting:
            run_jobs(work, self.prepared.evaluator, self.resources, at_once, self.spec.budgets.trial_time)

    def _settled(self, trial: Trial) -> None:
        """Record a settled trial, and from time to time where the front stands."""
        self.recording.trial(trial)
        if time.monotonic() - self._recorded > _RECORD_SECONDS:
            self._recorded = time.monotonic()
            self._note_time()
            self.recording.front(front_of_study(self.store))

    def _cut_off(self, phase: Phase, rungs: tuple[int, ...]) -> list[Job]:
        """Return jobs for what was running when an earlier driver ended."""
        return [self._job(one, rungs) for one in self.store.trials(phase) if one.state == "running"]

    def _references(self) -> list[Job]:
        """Return jobs for the fixed rows that were not trained yet, or were cut off.

        One that the budget of time ended is entered again, as another trial, once there is more of it.
        """
        full = (self.prepared.evaluator.steps,)
        jobs = self._cut_off("references", full)
        rows = {one.origin: one for one in self.store.trials("references")}
        for name in self.spec.search.references:
            last = rows.get(name)
            if last is not None and (last.cause != "interrupted" or self.bench.stop.look()):
                continue
            candidate = at_defaults(name)
            try:
                cost = self.prepared.cost(candidate, self.spec.budgets.memory_factor)
            except (UnsupportedError, PlacementError):
                continue
            number = self.store.add("references", candidate, cost, self.spec.search.seed, name)
            jobs.append(self._job(self.store.trial("references", number), full))
        return jobs

    def _finalists(self) -> list[Job]:
        """Enter the best search trials with fresh seeds, and return their jobs."""
        spec = self.spec.search
        known = {(one.origin, one.seed) for one in self.store.trials("finalists")}
        jobs = []
        for trial in _best(self.store, self.prepared.limits, spec.finalists.count):
            for seed in range(spec.seed + 1, spec.seed + 1 + spec.finalists.seeds):
                if (str(trial.number), seed) not in known:
                    number = self.store.add("finalists", trial.candidate, trial.cost, seed, str(trial.number))
                    jobs.append(self._job(self.store.trial("finalists", number), (self.prepared.evaluator.steps,)))
        return jobs

    def _job(self, trial: Trial, rungs: tuple[int, ...]) -> Job:
        folder = None if trial.phase == "references" else str(self.bench.folder / trial.phase / str(trial.number))
        return Job(
            trial.key, trial.candidate, trial.seed, rungs, folder, trial.phase == "finalists",
            trial.cost.accumulation if trial.cost else None,
        )  # fmt: skip


@contextmanager
def _without_shared(tokens: Path) -> Iterator[None]:
    """Begin and end without what actors share beside the tokens: states of the frozen prefix, and converted weights.

    They make them again, and they are large.
    """
    folders = [tokens / name for name in (PREFIX_FOLDER, WEIGHTS_FOLDER)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _best(store: StudyStore, limits: dict[str, float], count: int) -> list[Trial]:
    """Return the best fully trained, feasible trials: the front first, well spread, then what is next to it."""
    whole = [one for one in store.trials() if one.state == "complete" and is_feasible(one, limits)]
    if not whole:
        return []
    objectives = store.spec.objectives
    values = np.array([[one.scores[-1][objective.metric] for objective in objectives] for one in whole])
    return [whole[index] for index in order(values, [objective.direction for objective in objectives])[:count]]


def _write_front(store: StudyStore, home: Home, recorder: Recorder) -> Front:
    """Note how finalists predict together, write the front's files, and bring the record in step."""
    from orchestrator.predictors import predictor_points  # torch comes with it

    folder = home.study(store.name)
    points = predictor_points(front_of_study(store), folder, store.spec.calibration, _subgroups(store, folder))
    store.note("predictors", [one.to_json() for one in points])
    front = front_of_study(store)
    for name, content in pareto_files(front, store.trials(), store.trials("references")).items():
        atomic_write(folder / "front" / name, content)
    recorder.record_all()
    return front


def _subgroups(store: StudyStore, folder: Path) -> dict[str, NDArray[np.str_]] | None:
    """Return the subgroup of each example of calibration and test; None where the task has none."""
    if store.spec.synthetic is not None or not store.spec.task.has_subgroups:
        return None
    from evaluators.tokens import TokenFolder

    tokens = TokenFolder.open(folder / "tokens")
    names = {role: tokens.read(role).subgroups for role in ("calibration", "test")}
    return {role: one for role, one in names.items() if one is not None}


@contextmanager
def _stop_on_signals(stop: Stop) -> Iterator[None]:
    """Turn the first interrupt or request to end into a stop; a second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.ask(f"interrupted by {signal.Signals(number).name}")
        for one, handler in kept.items():
            signal.signal(one, handler)

    try:
        for number in kept:
            signal.signal(number, ask)
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
