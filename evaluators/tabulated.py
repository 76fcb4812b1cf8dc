"""A table of trained candidates: what each scored at each rung, kept so that searches can be replayed.

The file is JSON Lines. Its first line is the header: the study that the candidates were drawn for, the rungs, the names
of the quality metrics in their order, and where it comes from. Every other line is one training: a candidate, a seed,
and either its rungs with the metrics on validation and on test apart, or why it failed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.score import Cost
from search_space.candidate import Candidate
from search_space.errors import DataError

SCHEMA_VERSION = 1
_KIND = "paretune search table"


@dataclass(frozen=True)
class Header:
    """What all rows of a table share.

    Attributes:
        spec: The study's spec as JSON data: model, task, space, training.
        rungs: Training steps at which every candidate was scored; the last is full training.
        quality: Names of the metrics that depend on data, in the order in which rows give them.
        provenance: Versions, seed of the drawing, the command.
    """

    spec: Mapping[str, Any]
    rungs: tuple[int, ...]
    quality: tuple[str, ...]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return this header as JSON data."""
        head = {"kind": _KIND, "schema_version": SCHEMA_VERSION, "rungs": list(self.rungs)}
        return {**head, "quality": list(self.quality), "spec": self.spec, "provenance": self.provenance}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Header:
        """Read a header. Raises DataError when it is another file's."""
        if data.get("kind") != _KIND or data.get("schema_version") != SCHEMA_VERSION:
            raise DataError(f"expected a {_KIND} of schema version {SCHEMA_VERSION}")
        return cls(data["spec"], tuple(data["rungs"]), tuple(data["quality"]), data["provenance"])


@dataclass(frozen=True)
class Row:
    """One training of one candidate.

    Attributes:
        candidate: What was trained.
        seed: Seed of the training.
        origin: Which draw it comes from: `wide` for the wide space, else the name of a preset.
        cost: What was known before.
        validation: Quality by rung, in the header's order; as many rungs as were reached.
        test: The same on the test split.
        measured: What was measured at the end: `checkpoint_bytes`, `peak_memory_bytes`, `latency_ms`, `train_step_ms`.
        cause: Why it failed; empty where it did not.
        message: The same in words.
    """

    candidate: Candidate
    seed: int
    origin: str
    cost: Cost
    validation: tuple[tuple[float, ...], ...] = ()
    test: tuple[tuple[float, ...], ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    cause: str = ""
    message: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What makes a row unique: the candidate's identity and the seed."""
        return self.candidate.sha256, self.seed

    def to_json(self) -> dict[str, Any]:
        """Return this row as JSON data, seven significant digits of every measurement."""
        data: dict[str, Any] = {"candidate": self.candidate.to_json(), "seed": self.seed, "origin": self.origin}
        data["cost"] = self.cost.to_json()
        if self.cause:
            return {**data, "cause": self.cause, "message": self.message}
        data["validation"] = [list(map(_rounded, one)) for one in self.validation]
        data["test"] = [list(map(_rounded, one)) for one in self.test]
        return {**data, "measured": {name: _rounded(value) for name, value in self.measured.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Read a row."""
        return cls(
            candidate=Candidate.from_json(data["candidate"]),
            seed=data["seed"],
            origin=data["origin"],
            cost=Cost.from_json(data["cost"]),
            validation=tuple(map(tuple, data.get("validation", ()))),
            test=tuple(map(tuple, data.get("test", ()))),
            measured=data.get("measured", {}),
            cause=data.get("cause", ""),
            message=data.get("message", ""),
        )


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        header: What all rows share.
        rows: By candidate's identity and seed, in the order of the file.
    """

    header: Header
    rows: Mapping[tuple[str, int], Row]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table. A last line that was not written to its end is left out; it is trained again.

        Raises:
            DataError: The file is not there, or is no table.
        """
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise DataError(f"the table {path} cannot be read: {error}") from error
        try:
            header = Header.from_json(json.loads(lines[0]))
            rows = [Row.from_json(one) for one in _whole(lines[1:])]
        except (ValueError, KeyError) as error:
            raise DataError(f"{path} is no table: {error}") from error
        return cls(header, {row.key: row for row in rows})

    def main(self) -> list[Row]:
        """Return the rows of the first seed: one for each candidate, failed ones included."""
        return [row for row in self.rows.values() if row.seed == 0]


def _whole(lines: list[str]) -> Iterator[Any]:
    """Yield the data of all lines; the last one may have been cut off by a kill."""
    for position, line in enumerate(lines):
        if line:
            try:
                yield json.loads(line)
            except ValueError:
                if any(lines[position + 1 :]):
                    raise


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
