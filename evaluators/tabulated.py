"""A table of trained candidates: what each scored at each rung, and an evaluator that replays it.

The file is JSON Lines. Its first line is the header: the study that the candidates were drawn for, the rungs, the names
of the quality metrics in their order, and where it comes from. Every other line is one training: a candidate, a seed,
and either its rungs with the metrics on validation and on test apart, or why it failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

from evaluators.score import UNTRAINED, Cost, Score, Split
from search_space.candidate import Candidate
from search_space.errors import Cause, DataError, EvaluationError, UnsupportedError
from search_space.placement import Anatomy

Fault = Literal["raise", "nan", "oom", "missing", "hang", "exit"]
"""What goes wrong with a candidate on purpose, for tests: an exception, a metric that is not finite, no memory, an
objective that is not reported, no answer for ever, a process that ends."""

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
        origin: Where it comes from: `wide` for a draw of the wide space, the name of a preset for one of that,
            `baseline` for a fixed architecture beside them, `transfer` for the front of another task.
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

    @cached_property
    def _ms_per_flop(self) -> float:
        """How long a FLOP per token takes, in a row of which half of the rows take longer."""
        trained = [row for row in self.main() if not row.cause]
        if untold := [row for row in trained if row.cost.training_flops is None]:
            raise DataError(f"{len(untold)} rows do not tell their training_flops; train the table anew")
        return median(row.measured["train_step_ms"] for row in trained) / median(
            row.cost.training_flops or 0 for row in trained
        )

    def step_seconds(self, row: Row) -> float:
        """Return how long a training step of a row takes on the simulated clock: as its FLOPs stand to the others'.

        What was measured differs from run to run by what else the machine did; only its median sets the pace. A row of
        which nothing is known, since it could not be attached, takes no time.

        Raises:
            DataError: A row that was trained does not tell its FLOPs.
        """
        return (row.cost.training_flops or 0) * self._ms_per_flop / 1e3

    def of(self, origin: str) -> Table:
        """Return the table of the rows of one origin: a search sees the candidates of one space."""
        return Table(self.header, {key: row for key, row in self.rows.items() if row.origin == origin})

    def score(self, row: Row, rung: int, split: Split) -> Score:
        """Return what a row scored at a rung, counted from 0. What needs the end of training stands at the last only.

        The latency, which does not, stands at every rung.

        Raises:
            EvaluationError: The training had failed before that rung.
        """
        if row.cause:
            raise EvaluationError(cast(Cause, row.cause), row.message)
        values = dict(zip(self.header.quality, (row.test if split == "test" else row.validation)[rung], strict=True))
        steps = self.header.rungs
        values |= {name: value for name, value in row.cost.values.items() if name != "peak_memory_bytes"}
        last = rung == len(steps) - 1
        values |= {name: value for name, value in row.measured.items() if last or name in UNTRAINED}
        return Score(values, steps[rung], steps[rung] / steps[-1], split, row.seed)


class TabulatedCoster:
    """Costs of the candidates of a table, as they were known before training."""

    def __init__(self, table: Table, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.parameters = int(table.header.provenance["backbone_parameters"])
        self._costs = {row.candidate.sha256: row.cost for row in table.main()}

    def cost(self, candidate: Candidate, within: float | None = None) -> Cost:
        """Return the cost. Raises UnsupportedError for a candidate that is not in the table."""
        if candidate.sha256 not in self._costs:
            raise UnsupportedError("this candidate is not in the table")
        return self._costs[candidate.sha256]

    def count(self, candidate: Candidate) -> int:
        """Return the trainable parameters. Raises UnsupportedError for a candidate that is not in the table."""
        return self.cost(candidate).trainable_params


class TabulatedEvaluator:
    """Replays the trainings of a table: scores at once, and how long the training takes.

    Args:
        table: What was trained.
        faults: What goes wrong on purpose, by the candidate's identity.
    """

    def __init__(self, table: Table, faults: Mapping[str, Fault] | None = None) -> None:
        self.table = table
        self.faults = faults or {}

    def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> TabulatedRun:
        """Begin a replay; a seed that is not in the table is answered by seed 0. Raises UnsupportedError."""
        rows = self.table.rows
        row = rows.get((candidate.sha256, seed)) or rows.get((candidate.sha256, 0))
        if row is None:
            raise UnsupportedError("this candidate is not in the table")
        return TabulatedRun(self.table, row, self.faults.get(candidate.sha256))


class TabulatedRun:
    """One training that is replayed."""

    def __init__(self, table: Table, row: Row, fault: Fault | None) -> None:
        self.table, self.row, self.fault = table, row, fault
        self.step = 0

    def seconds(self, step: int) -> float:
        """Return how long training from here up to `step` takes; infinite where it is to hang."""
        if self.fault == "hang":
            return math.inf
        return (step - self.step) * self.table.step_seconds(self.row)

    def advance(self, step: int) -> Score:
        """Return the score at a rung of the table.

        Raises:
            EvaluationError: The training failed, then or on purpose now.
        """
        if self.fault == "raise":
            raise RuntimeError("told to raise")
        if self.fault == "oom":
            raise MemoryError("told to run out of memory")
        if self.fault == "exit":
            raise SystemExit("told to end its process")
        score = self.table.score(self.row, self.table.header.rungs.index(step), "validation")
        self.step = step
        if self.fault == "nan":
            return Score({**score.values, "accuracy": math.nan}, step, score.fidelity, "validation", score.seed)
        left_out = {"accuracy"} if self.fault == "missing" else set()
        kept = {name: value for name, value in score.values.items() if name not in left_out}
        return Score(kept, step, score.fidelity, "validation", score.seed)

    def pause(self, folder: Path) -> None:
        """Keep nothing: a replay goes on from the table."""

    def resume(self, folder: Path) -> bool:
        """Begin anew."""
        return False

    def save(self, folder: Path) -> None:
        """Keep nothing."""

    def test(self, folder: Path | None = None) -> Score:
        """Return the score on the test split after full training."""
        return self.table.score(self.row, len(self.table.header.rungs) - 1, "test")


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
