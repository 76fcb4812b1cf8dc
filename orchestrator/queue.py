"""The queue: studies handed to the server, in order, kept through restarts.

It is a database of its own, `queue.db` in the home, and not attributes in the Optuna storage, for two reasons. To
take an idempotency key, or the next study, *only if nobody did* needs a transaction, which SQLite has and Optuna's
attributes have not. And a storage that many machines share must not mix their queues: a server sees only its own
processes.

The storage stays the truth about studies. A study is created there inside the transaction that queues it: cut off in
between, it stands in the storage unqueued, and the same submission queues it. Nothing here is needed to resume a study.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from typing import Literal

from orchestrator.home import Home
from orchestrator.spec import StudySpec
from orchestrator.storage import Storage
from search_space.errors import StudyExistsError, StudyLockedError, StudyNotFoundError

QueueState = Literal["queued", "running", "complete", "failed", "stopped"]
KEY_DAYS = 30
_SCHEMA = """
CREATE TABLE IF NOT EXISTS submissions (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'complete', 'failed', 'stopped')),
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    settled_trials INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,
    submitted REAL NOT NULL,
    not_before REAL NOT NULL DEFAULT 0,
    started REAL,
    finished REAL,
    stop_requested REAL
);
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, taken REAL NOT NULL);
CREATE INDEX IF NOT EXISTS submissions_by_state ON submissions (state, position);
"""


@dataclass(frozen=True)
class Submission:
    """A study as the queue holds it. Times are seconds since 1970.

    Attributes:
        position: Its place: lower goes first. A study that is submitted again goes to the end.
        name: The study.
        digest: SHA-256 of the whole spec, budgets and resources included.
        state: Where it stands.
        reason: Why it failed, or waits.
        attempts: Starts of its driver since a trial was last settled, or paused at a rung.
        settled_trials: Trials that had been settled at its last start, and rungs of those that had been paused.
        pid: Process, and process group, of its driver; None while there is none, or none of ours.
        submitted: When it was submitted last.
        not_before: When it may start again after its driver died.
        started: When its driver was started first since it was submitted.
        finished: When it came to its end.
        stop_requested: When somebody asked it to stop.
    """

    position: int
    name: str
    digest: str
    state: QueueState
    reason: str
    attempts: int
    settled_trials: int
    pid: int | None
    submitted: float
    not_before: float
    started: float | None
    finished: float | None
    stop_requested: float | None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it unless it is submitted again."""
        return self.state in ("complete", "failed", "stopped")


_COLUMNS = ", ".join(one.name for one in fields(Submission))


class Queue:
    """The studies of one home that a server runs. Safe to use from several threads and processes at once."""

    def __init__(self, home: Home, storage: Storage, now: Callable[[], float] = time.time) -> None:
        self.home = home
        self.storage = storage
        self.now = now
        self._mutex = threading.Lock()
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)

    def submit(self, spec: StudySpec, key: str | None = None) -> tuple[Submission, bool]:
        """Queue a study, or find it queued. Returns it, and whether the study is new.

        The same key with the same spec is the same submission, however often it comes, and changes nothing. Without
        a key, or with a new one, a study that failed, was stopped, or gets other budgets than those it ended with is
        queued again, and continues.

        Raises:
            StudyExistsError: The key was used for another spec, or a study of this name has another spec.
            StudyLockedError: The study is running, and this would change its budgets.
        """
        digest = _digest(spec)
        with self._transaction() as db:
            known = self._known_key(db, key, digest)
            if known:
                return self._read(db, known), False
            before = self._find(db, spec.name)
            self._check_may_change(spec, digest, before)
            new = before is None and spec.name not in self.storage.names()
            store = self.storage.create(spec)
            if self._enqueue(db, spec.name, digest, before):
                store.note("stop", False)
                store.note("status", "queued")
            if key is not None:
                db.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (key, spec.name, digest, self.now()))
            return self._read(db, spec.name), new

    def resume(self, name: str) -> Submission:
        """Queue a study of the storage again as it is. Raises StudyNotFoundError, StudyLockedError."""
        return self.submit(self.storage.open(name).spec)[0]

    def stop(self, name: str) -> Submission | None:
        """Ask a study to stop; its driver is given time to end well. Returns it, or None when it is not ours.

        A study that the command line runs is asked through the storage alone. Stopping what has ended changes nothing.

        Raises:
            StudyNotFoundError: There is no such study.
        """
        store = self.storage.open(name)
        with self._transaction() as db:
            one = self._find(db, name)
            if self.home.is_driven(name) or (one is not None and one.state == "running"):
                store.note("stop", True)
            if one is not None and one.state == "queued":
                self._update(db, name, state="stopped", reason="stopped before it started", finished=self.now())
            elif one is not None and one.state == "running" and one.stop_requested is None:
                self._update(db, name, stop_requested=self.now())
            return self._find(db, name)

    def find(self, name: str) -> Submission | None:
        """Return a study of the queue, or None."""
        with closing(self._connect()) as db:
            return self._find(db, name)

    def submissions(self) -> list[Submission]:
        """Return all studies of the queue in their order."""
        with closing(self._connect()) as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM submissions ORDER BY position").fetchall()  # noqa: S608
        return [Submission(*row) for row in rows]

    def running(self) -> list[Submission]:
        """Return the studies that should have a driver."""
        return [one for one in self.submissions() if one.state == "running"]

    def claim(self) -> Submission | None:
        """Take the next study that may start and call it running; None when there is none."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT name FROM submissions WHERE state = 'queued' AND not_before <= ? ORDER BY position LIMIT 1",
                (self.now(),),
            ).fetchone()
            if row is None:
                return None
            one = self._read(db, row[0])
            self._update(db, one.name, state="running", reason="", pid=None, stop_requested=None,
                         attempts=one.attempts + 1, started=one.started or self.now(), finished=None)  # fmt: skip
            return self._read(db, one.name)

    def begun(self, name: str, pid: int, settled_trials: int) -> None:
        """Keep the process of a study's driver."""
        with self._transaction() as db:
            self._update(db, name, pid=pid, settled_trials=settled_trials)

    def settle(self, name: str, state: QueueState, reason: str = "") -> None:
        """Say how a study ended."""
        with self._transaction() as db:
            self._update(db, name, state=state, reason=reason[:2000], finished=self.now(), pid=None)

    def retry(self, name: str, reason: str, delay: float, attempts: int) -> None:
        """Queue a study again, at its old place, after its driver died."""
        with self._transaction() as db:
            self._update(db, name, state="queued", reason=reason[:2000], attempts=attempts, pid=None,
                         not_before=self.now() + delay)  # fmt: skip

    def _known_key(self, db: sqlite3.Connection, key: str | None, digest: str) -> str | None:
        if key is None:
            return None
        db.execute("DELETE FROM keys WHERE taken < ?", (self.now() - KEY_DAYS * 86400,))
        row = db.execute("SELECT name, digest FROM keys WHERE key = ?", (key,)).fetchone()
        if row is not None and row[1] != digest:
            raise StudyExistsError(
                f"this idempotency key was used for another spec (study {row[0]!r}); use a fresh key for each one"
            )
        return None if row is None else str(row[0])

    def _check_may_change(self, spec: StudySpec, digest: str, before: Submission | None) -> None:
        """Refuse to change the budgets of a study under a running driver, ours or the command line's."""
        ours = before is not None and before.state == "running"
        if before is not None and ours and before.digest == digest:
            return
        if ours or self.home.is_driven(spec.name):
            raise StudyLockedError(f"study {spec.name!r} is running; stop it before you submit it again")

    def _enqueue(self, db: sqlite3.Connection, name: str, digest: str, before: Submission | None) -> bool:
        """Queue what is new, changed, or did not end well. Returns whether it waits for a driver now."""
        if before is not None and before.state in ("queued", "running"):
            self._update(db, name, digest=digest)
            return before.state == "queued"
        if before is not None and before.state == "complete" and before.digest == digest:
            return False
        db.execute("DELETE FROM submissions WHERE name = ?", (name,))
        db.execute("INSERT INTO submissions (name, digest, state, submitted) VALUES (?, ?, 'queued', ?)",
                   (name, digest, self.now()))  # fmt: skip
        return True

    def _read(self, db: sqlite3.Connection, name: str) -> Submission:
        one = self._find(db, name)
        if one is None:
            raise StudyNotFoundError(f"study {name!r} is not in the queue")
        return one

    @staticmethod
    def _find(db: sqlite3.Connection, name: str) -> Submission | None:
        row = db.execute(f"SELECT {_COLUMNS} FROM submissions WHERE name = ?", (name,)).fetchone()  # noqa: S608
        return None if row is None else Submission(*row)

    @staticmethod
    def _update(db: sqlite3.Connection, name: str, **values: object) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        db.execute(f"UPDATE submissions SET {columns} WHERE name = ?", (*values.values(), name))  # noqa: S608

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.home.root / "queue.db", timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write alone, all or nothing. Threads wait in line here, other processes in SQLite."""
        with self._mutex, closing(self._connect()) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _digest(spec: StudySpec) -> str:
    text = json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
