"""What was measured, one line each, appended as it is measured: a run that was cut off goes on where it stood."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """A file of measurements by key. One process writes to it at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict[str, Any]] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # cut off in the middle of a line
            lines.pop()
            os.truncate(path, sum(map(len, lines)))
        for row in map(json.loads, lines):
            self.rows[row["key"]] = row["value"]

    def once(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was measured under a key, measuring it if nothing was."""
        if key not in self.rows:
            self.rows[key] = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self.rows[key]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(f"{key}: {json.dumps(self.rows[key])[:160]}", flush=True)
        return self.rows[key]
