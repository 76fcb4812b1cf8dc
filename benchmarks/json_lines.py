"""Files of one JSON value a line that are added to as results come, by several processes, through kills."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, BinaryIO


def append(path: Path, line: str) -> None:
    """Add a line, whole or not at all as far as readers see, in place of one that was cut off before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _mend(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def mend(path: Path) -> None:
    """Take away a last line that was cut off, if there is one."""
    if path.exists():
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _mend(file)


def read(path: Path) -> list[Any]:
    """Return the value of every line, one that was cut off at the end left out; nothing where there is no file."""
    if not path.exists():
        return []
    whole, _, _cut_off = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _mend(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
