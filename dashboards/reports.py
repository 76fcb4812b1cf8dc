"""What the pages and the API say of a study: read from the storage and the queue, at most once in a while."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from orchestrator.front import Front, front_of, limits_of
from orchestrator.home import Home
from orchestrator.pick import quality_of
from orchestrator.queue import Queue, QueueState, Submission
from orchestrator.spec import StudySpec
from orchestrator.storage import Storage, StudyStore
from orchestrator.trial import PHASES, Phase, Trial
from search_space.errors import StudyError

State = Literal["queued", "running", "complete", "failed", "stopped", "interrupted"]
MOST_KEPT = 200


@dataclass(frozen=True)
class Report:
    """One study at one moment.

    Attributes:
        spec: Its spec.
        state: Where it stands. `interrupted` is a study that nobody runs, and that has not come to its end.
        reason: Why it failed, or what it waits for.
        submission: How the queue holds it; None for one that the command line runs.
        trials: Its trials, by phase.
        front: Its front; None before the limits of its model are known.
        version: Changes when anything else in here does.
    """

    spec: StudySpec
    state: State
    reason: str
    submission: Submission | None
    trials: Mapping[Phase, tuple[Trial, ...]]
    front: Front | None
    version: str

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.name

    @property
    def done(self) -> int:
        """Trials of the search that came to an end or to a pause, as budgets count them: those that were trained.

        One that paused and went on stays counted, so that the number never falls.
        """
        search = self.trials["search"]
        return sum((one.is_settled or one.has_paused) and bool(one.scores or one.cause) for one in search)

    @property
    def paused(self) -> int:
        """Trials of the search that wait at a rung now."""
        return sum(one.state == "paused" for one in self.trials["search"])

    @property
    def started(self) -> datetime | None:
        """When its first trial was drawn."""
        times = [one.started for one in self._all() if one.started]
        return _aware(min(times)) if times else None

    @property
    def submitted(self) -> datetime | None:
        """When it was submitted to the queue last."""
        return datetime.fromtimestamp(self.submission.submitted, UTC) if self.submission else None

    @property
    def changed(self) -> datetime | None:
        """When anything was last seen to happen to it."""
        times = [_aware(when) for one in self._all() for when in (one.started, one.finished) if when]
        return max([*times, *([self.submitted] if self.submitted else [])], default=None)

    @property
    def best(self) -> Trial | None:
        """The member of the front that is best by the first quality objective."""
        if self.front is None or not self.front.members:
            return None
        quality = quality_of(self.spec)
        sign = 1 if quality.direction == "maximize" else -1
        return max(self.front.members, key=lambda one: (sign * one.values[quality.name], -one.number)).trial

    def _all(self) -> list[Trial]:
        return [one for trials in self.trials.values() for one in trials]


@dataclass
class _Kept:
    """What is kept of a study between two reports on it."""

    store: StudyStore
    written: object
    report: Report | None = None
    made: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Reports:
    """Reports on the studies of a home.

    One of a study is made at most once in `fresh` seconds, however many ask (less often when nobody runs it), and its
    front is found again only when something has changed.
    """

    def __init__(
        self,
        home: Home,
        storage: Storage,
        queue: Queue,
        fresh: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home = home
        self.storage = storage
        self.queue = queue
        self.fresh = fresh
        self._now = now
        self._kept: dict[str, _Kept] = {}
        self._mutex = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of all studies, the newest first."""
        return self.storage.names()[::-1]

    def of(self, name: str) -> Report:
        """Return a report on a study. Raises StudyNotFoundError."""
        self.home.study(name)
        kept = self._keep(name)
        with kept.lock:
            if kept.report is None or self._now() - kept.made >= self._patience(kept.report):
                kept.report = self._make(kept)
                kept.made = self._now()
            return kept.report

    def forget(self, name: str) -> None:
        """Make the next report on a study afresh, after something was done to it."""
        kept = self._kept.get(name)
        if kept is not None:
            kept.made = float("-inf")

    def _patience(self, report: Report) -> float:
        return self.fresh if report.state in ("queued", "running") else 5 * self.fresh

    def _keep(self, name: str) -> _Kept:
        """Return what is kept of a study; its store holds the trials that were read, so it stays open."""
        with self._mutex:
            kept = self._kept.get(name)
            if kept is None:
                store = self._open(name)
                kept = self._kept[name] = _Kept(store, store.noted("paretune"))
                if len(self._kept) > MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
            return kept

    def _open(self, name: str) -> StudyStore:
        try:
            return StudyStore(self.storage, name)
        except KeyError:
            return self.storage.open(name)

    def _make(self, kept: _Kept) -> Report:
        written = kept.store.noted("paretune")
        if written != kept.written:
            kept.store, kept.written, kept.report = self._open(kept.store.name), written, None
        store = kept.store
        submission = self.queue.find(store.name)
        state, reason = self._state(store, submission)
        trials = {phase: tuple(store.trials(phase)) for phase in PHASES}
        limits = _limits(store)
        version = _version(state, reason, submission, limits, trials, store.noted("predictors"))
        if kept.report is not None and kept.report.version == version:
            return kept.report
        return Report(store.spec, state, reason, submission, trials, _front(store, limits, trials), version)

    def _state(self, store: StudyStore, submission: Submission | None) -> tuple[State, str]:
        """Say where a study stands: the queue knows of what it runs, the driver notes the rest."""
        if submission is not None and not submission.ended:
            return submission.state, submission.reason
        status = store.noted("status")
        if status == "running" and self.home.is_driven(store.name):
            return "running", ""
        if status in get_args(QueueState) and status not in ("queued", "running"):
            return status, submission.reason if submission is not None and submission.state == status else ""
        if submission is not None:
            return submission.state, submission.reason
        return "interrupted", f"nobody runs it; continue it with: paretune resume {store.name}"


def _limits(store: StudyStore) -> Mapping[str, float] | None:
    """Return the limits of a study, or None before the size of its model is known."""
    try:
        return limits_of(store)
    except StudyError:
        return None


def _front(
    store: StudyStore, limits: Mapping[str, float] | None, trials: Mapping[Phase, tuple[Trial, ...]]
) -> Front | None:
    if limits is None:
        return None
    front = front_of(store.spec, trials["search"], limits, trials["finalists"], store.noted("reference_point"))
    return replace(front, predictors=tuple(store.noted("predictors") or ()))


def _version(
    state: State,
    reason: str,
    submission: Submission | None,
    limits: object,
    trials: Mapping[Phase, tuple[Trial, ...]],
    predictors: object,
) -> str:
    seen = hashlib.sha256(repr((state, reason, submission, limits, predictors)).encode())
    for phase in PHASES:
        for one in trials[phase]:
            seen.update(f"{one.key} {one.state} {one.steps} {one.test is None};".encode())
    return seen.hexdigest()[:16]


def _aware(when: datetime) -> datetime:
    """Optuna keeps local times without a zone."""
    return when.astimezone(UTC)
