"""The processes that run queued studies: started, watched, restarted when they die, stopped when asked.

A driver is a process, session and process group of its own, so that it outlives the server. It inherits the lock of
`process.lock` in its study's folder, held from before it starts until it is gone: a server that was restarted knows by
that lock, without trusting a process id, which drivers still live. One server at a time works the queue of a home.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from orchestrator.home import Home
from orchestrator.queue import Queue, Submission
from orchestrator.redaction import redact
from search_space.errors import ParetuneError

_LOG = logging.getLogger("paretune.queue")
_USAGE = 2
_TAIL_BYTES = 4096
_PRIVATE = ("PARETUNE_TOKEN", "PARETUNE_TOKEN_FILE", "MLFLOW_RUN_ID", "MLFLOW_BACKEND_STORE_URI")

Command = Callable[[str], Sequence[str]]


def resume_command(name: str) -> list[str]:
    """Return the command that continues a study."""
    return [sys.executable, "-m", "orchestrator.cli", "resume", name]


def driver_environment(home: Home, outside: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a driver: the server's own, without its token and without MLflow's server settings."""
    kept = {key: value for key, value in outside.items() if key not in _PRIVATE and not key.startswith("_MLFLOW_")}
    ours = {"PARETUNE_HOME": str(home.root), "MLFLOW_TRACKING_URI": home.tracking_uri, "PYTHONUNBUFFERED": "1"}
    return kept | ours


class Drivers:
    """Runs the studies of a queue, some at a time.

    Args:
        queue: The queue.
        command: Makes the command that runs a study.
        environment: Environment of the processes.
        at_once: Most studies that run at the same time.
        attempts: Starts without a trial settled in between, after which a study has failed.
        grace: Seconds that a driver has to stop by itself, and again until it is killed.
        backoff: Seconds before the first restart; each further one waits twice as long.
    """

    def __init__(
        self,
        queue: Queue,
        command: Command = resume_command,
        environment: Mapping[str, str] | None = None,
        *,
        at_once: int = 1,
        attempts: int = 3,
        grace: float = 15.0,
        backoff: float = 2.0,
    ) -> None:
        self.queue = queue
        self.home = queue.home
        self.command = command
        self.environment = driver_environment(self.home, os.environ if environment is None else environment)
        self.at_once = at_once
        self.attempts = attempts
        self.grace = grace
        self.backoff = backoff
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._told_to_end: set[str] = set()
        self._lock: IO[str] | None = None

    def run(self, ended: threading.Event, poll: float = 0.5) -> None:
        """Work the queue until the event is set. Drivers that run then go on running."""
        while not ended.is_set():
            try:
                self.step()
            except (ParetuneError, OSError) as error:
                _LOG.error("the queue waits: %s", redact(str(error)))
            ended.wait(poll)
        self.close()

    def step(self) -> None:
        """Do what is due: settle what ended, stop what should stop, start what may start."""
        if not self._is_ours():
            return
        running = self.queue.running()
        for one in running:
            self._watch(one)
        room = self.at_once - len(self.queue.running())
        for _ in range(room):
            if (one_more := self.queue.claim()) is None:
                break
            self._start(one_more)

    def close(self) -> None:
        """Leave the queue to another server."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _is_ours(self) -> bool:
        if self._lock is None:
            self._lock = _take(self.home.root / "queue.lock")
        return self._lock is not None

    def _start(self, one: Submission) -> None:
        """Start the driver of a study that was claimed."""
        folder = self.home.study(one.name)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take(folder / "process.lock")
        if lock is None:
            self.queue.retry(one.name, "waits for an earlier process of it to end", self.backoff, one.attempts - 1)
            return
        with lock, (folder / "driver.log").open("ab") as log:
            try:
                child = self._spawn(one.name, lock, log)
            except OSError as error:
                self.queue.settle(one.name, "failed", f"its driver cannot be started: {redact(str(error))}")
                return
        self._children[one.name] = child
        self._told_to_end.discard(one.name)
        self.queue.begun(one.name, child.pid, self._progress(one.name))
        _LOG.info("study %s runs as process %d", one.name, child.pid)

    def _spawn(self, name: str, lock: IO[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  (our own command, a study's name is checked, no shell)
            list(self.command(name)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )

    def _watch(self, one: Submission) -> None:
        child = self._children.get(one.name)
        code = child.poll() if child is not None else None
        ours = child is not None or self._holds_lock(one.name)
        if code is not None:
            del self._children[one.name]
            self._settle(one, code)
        elif not ours and not self.home.is_driven(one.name):
            self._settle(one, None)
        elif ours and one.stop_requested is not None:
            self._press(one, one.stop_requested)

    def _holds_lock(self, name: str) -> bool:
        """Whether a driver that an earlier server started is still there."""
        lock = _take(self.home.study(name) / "process.lock")
        if lock is None:
            return True
        lock.close()
        return False

    def _settle(self, one: Submission, code: int | None) -> None:
        """Say what became of a study whose driver is gone. The code of an adopted driver is not known.

        A driver notes how it ended; one that was killed leaves `running`, and one that a signal ended, which nobody
        asked for here, leaves `stopped`. Both are started again.
        """
        store = self.queue.storage.open(one.name)
        status = store.noted("status")
        if one.stop_requested is not None or (status == "stopped" and store.noted("stop")):
            self.queue.settle(one.name, "complete" if status == "complete" else "stopped")
        elif code in (0, None) and status == "complete":
            self.queue.settle(one.name, "complete")
        elif code == _USAGE or status == "failed":
            self.queue.settle(one.name, "failed", self._reason(one.name, code))
        else:
            self._restart(one, code)

    def _restart(self, one: Submission, code: int | None) -> None:
        progressed = self._progress(one.name) > one.settled_trials
        attempts = 0 if progressed else one.attempts
        reason = self._reason(one.name, code)
        if attempts >= self.attempts:
            self.queue.settle(one.name, "failed", f"its driver died {attempts} times; {reason}")
            return
        delay = 0.0 if code is None else self.backoff * 2 ** max(0, attempts - 1)
        self.queue.retry(one.name, f"is started again; {reason}", delay, attempts)
        _LOG.warning("study %s is started again: %s", one.name, reason)

    def _press(self, one: Submission, asked: float) -> None:
        """Ask a driver to stop, again if it started just then; if it does not, end it, and later its whole group."""
        store = self.queue.storage.open(one.name)
        if not store.noted("stop"):
            store.note("stop", True)
        late = self.queue.now() - asked
        if one.pid is None:
            return
        if late > 2 * self.grace:
            _signal_group(one.pid, signal.SIGKILL)
        elif late > self.grace and one.name not in self._told_to_end:
            self._told_to_end.add(one.name)
            _signal(one.pid, signal.SIGTERM)

    def _progress(self, name: str) -> int:
        """Count what the next driver need not do again: settled trials, and rungs of those that paused at one."""
        trials = self.queue.storage.open(name).trials()
        return sum(one.is_settled + (len(one.scores) if one.has_paused else 0) for one in trials)

    def _reason(self, name: str, code: int | None) -> str:
        how = "its driver was gone" if code is None else f"its driver ended with {_words(code)}"
        last = _last_line(self.home.study(name) / "driver.log")
        return f"{how}: {last}" if last else how


def _take(path: Path) -> IO[str] | None:
    """Take the lock of a file and return it open, or None when somebody holds it. Its folder may be missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _signal(pid: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, what)


def _signal_group(pid: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, what)


def _words(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(path: Path) -> str:
    """Return the last line of a log that says something, without secrets."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return redact(lines[-1])[:500] if lines else ""
