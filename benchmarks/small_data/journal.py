"""The results of runs, one line each, appended as they end: what was cut off goes on where it stood.

Logits are kept as differences to the first class's, in half precision and base64, so that whoever has the builtins can
compute every figure of the report anew without training.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import json_lines
from benchmarks.small_data.plan import ONE_PASS_WAYS, SPREADS, Run

Logits = Mapping[str, NDArray[np.float64]]


class Journal:
    """A file of runs. One process writes to it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        json_lines.mend(path)
        self.rows: dict[Run, dict[str, Any]] = {Run.of(row): row for row in json_lines.read(path)}

    def append(self, run: Run, logits: Logits | None, seconds: float, error: str = "") -> None:
        """Keep the result of a run, or why it has none."""
        packed = {role: packed_logits(one) for role, one in (logits or {}).items()}
        row = run.to_json() | {"seconds": round(seconds, 2), "error": error, "logits": packed}
        json_lines.append(self.path, json.dumps(row, sort_keys=True))
        self.rows[run] = row

    def has_logits(self, run: Run) -> bool:
        """Whether a run was trained and did not fail."""
        return run in self.rows and not self.rows[run]["error"]

    def logits(self, run: Run, classes: int) -> dict[str, NDArray[np.float64]]:
        """Return the logits of a run by role. KeyError where it was not trained."""
        return {role: unpacked_logits(text, classes) for role, text in self.rows[run]["logits"].items()}


def one_pass_journals(folder: Path) -> dict[str, Journal]:
    """Return the journal of each way to one pass."""
    return {way: Journal(folder / f"one_pass_{way}.jsonl") for way in ONE_PASS_WAYS}


def laplace_journals(folder: Path) -> dict[str, Journal]:
    """Return the journal of runs as they are, and of each posterior of theirs."""
    return {name: Journal(folder / f"laplace_{name}.jsonl") for name in ("plain", *SPREADS)}


def packed_logits(logits: NDArray[np.float64]) -> str:
    """Return logits of shape [rows, classes] as text."""
    return base64.b64encode((logits[:, 1:] - logits[:, :1]).astype("<f2").tobytes()).decode()


def unpacked_logits(text: str, classes: int) -> NDArray[np.float64]:
    """Return logits of shape [rows, classes], the first class's all 0."""
    rest = np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float64).reshape(-1, classes - 1)
    return np.hstack([np.zeros((len(rest), 1)), rest])
