"""Where things are kept: `PARETUNE_HOME`, default `~/.paretune`."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from search_space.errors import StudyLockedError, StudyNotFoundError
from search_space.files import atomic_write as atomic_write

_PATIENCE = 1.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Home:
    """The folder that holds the storage, MLflow's database and a folder for each study."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or Path(os.environ.get("PARETUNE_HOME") or Path.home() / ".paretune")).expanduser().resolve()

    @property
    def storage_url(self) -> str:
        """Optuna storage URL: `PARETUNE_STORAGE`, or SQLite in this home."""
        return os.environ.get("PARETUNE_STORAGE") or f"sqlite:///{self.root / 'paretune.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI: `MLFLOW_TRACKING_URI`, or SQLite in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps artifacts when its database is in this home."""
        return self.root / "artifacts"

    def create(self) -> Home:
        """Make the folder, readable by its owner only, and return this home."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    def tables(self) -> Path:
        """Return the folder of what layers were found to cost, which may be deleted at any time. Makes the home."""
        with suppress(OSError):  # where nothing can be written nothing is kept
            self.create()
        return self.root / "tables"

    def study(self, name: str) -> Path:
        """Return the folder of a study. Raises StudyNotFoundError for a name that no study can have."""
        if not _NAME.fullmatch(name):
            raise StudyNotFoundError(f"{name[:80]!r} is not a study's name: lower-case letters, digits, '.', '_', '-'")
        return self.root / "studies" / name

    def is_driven(self, name: str) -> bool:
        """Whether a living process holds the lock of this study."""
        try:
            with self._locked(name, patience=0.0):
                return False
        except StudyLockedError:
            return True

    @contextmanager
    def drive(self, name: str) -> Iterator[None]:
        """Hold the lock of a study. Raises StudyLockedError when another process does."""
        self.study(name).mkdir(parents=True, exist_ok=True)
        with self._locked(name, patience=_PATIENCE):
            yield

    @contextmanager
    def _locked(self, name: str, patience: float) -> Iterator[None]:
        folder = self.study(name)
        if not folder.is_dir():
            yield
            return
        with (folder / "driver.lock").open("a+") as lock:
            if not _take(lock, patience):
                raise StudyLockedError(f"study {name!r} is being run by another process on this machine")
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)


def _take(lock: IO[str], patience: float) -> bool:
    """Take a lock, trying for some seconds: who only looks whether it is held holds it for a moment, too."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
