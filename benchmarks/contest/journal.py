"""What searches found, one line for each search and seed, so that a contest goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks import json_lines
from benchmarks.contest.arena import Arena, Finished

FILE = Path(__file__).parent.parent / "results" / "contest.jsonl"


@dataclass(frozen=True)
class Entry:
    """What one search found with one seed.

    Attributes:
        task: The table's task.
        table: Digest of the candidates and scores that were searched.
        search: Its name.
        seed: Its seed.
        steps: The budget.
        found: Training steps spent, and the identity of the candidate that was trained to the end by then.
    """

    task: str
    table: str
    search: str
    seed: int
    steps: int
    found: tuple[tuple[int, str], ...]

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What is run once."""
        return self.task, self.table, self.search, self.seed, self.steps

    def finished(self, arena: Arena) -> list[Finished]:
        """Return what was found, with its rows."""
        return [Finished(at, arena.table.rows[identity, 0]) for at, identity in self.found]


def digest(arena: Arena) -> str:
    """Return what tells a table from another one, or from itself when it was shorter."""
    text = json.dumps([[row.candidate.sha256, row.validation] for row in arena.rows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: Path = FILE) -> list[Entry]:
    """Return what was run, a line that was cut off left out."""
    return [Entry(**{**data, "found": tuple(map(tuple, data["found"]))}) for data in json_lines.read(path)]


def write(entry: Entry, path: Path = FILE) -> None:
    """Add a line."""
    json_lines.append(
        path, json.dumps({**entry.__dict__, "found": [list(one) for one in entry.found]}, separators=(",", ":"))
    )
