"""What was measured, one line each, appended as it is measured: a run that was cut off goes on where it stood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import json_lines


class Journal:
    """A file of measurements by key. One process writes to it at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        json_lines.mend(path)
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row["value"] for row in json_lines.read(path)}

    def once(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was measured under a key, measuring it if nothing was."""
        if key not in self.rows:
            self.rows[key] = measure()
            json_lines.append(self._path, json.dumps({"key": key, "value": self.rows[key]}))
            print(f"{key}: {json.dumps(self.rows[key])[:160]}", flush=True)
        return self.rows[key]
