"""What a search is given: a table, its space, the budget in training steps, and what counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log10

import numpy as np
from numpy.typing import NDArray

from evaluators.tabulated import Row, Table
from orchestrator.dominance import non_dominated, normalized_hypervolume
from orchestrator.expected_volume import Box, Option
from orchestrator.spec import Objective
from search_space.candidate import Candidate
from search_space.points import Points
from search_space.space import Space

DIRECTIONS = ("maximize", "minimize")
SHARES = (0.001, 0.005, 0.015)
"""Limits of trainable parameters at which the best candidate is looked at, as shares of the backbone."""


@dataclass(frozen=True)
class Finished:
    """A candidate that a search trained to the end.

    Attributes:
        at: Training steps that the search had spent by then.
        row: What the table holds of it.
    """

    at: int
    row: Row


def trained_by(finished: Sequence[Finished], steps: float) -> list[Row]:
    """Return what a search had trained to the end when it had spent some steps."""
    return [one.row for one in finished if one.at <= steps]


@dataclass
class Arena:
    """A table to search.

    Attributes:
        name: Of the task.
        table: What was trained.
        space: What its candidates were drawn from, bound to the model.
        classes: Number of classes: guessing scores one over it.
        limit: Most trainable parameters.
    """

    name: str
    table: Table
    space: Space
    classes: int
    limit: int
    rows: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.table.main()

    @property
    def backbone(self) -> int:
        """Parameters of the backbone."""
        return int(self.table.header.provenance["backbone_parameters"])

    def under(self, share: float) -> Arena:
        """Return the arena of the candidates with at most a share of the backbone's parameters."""
        limit = int(share * self.backbone)
        kept = {key: row for key, row in self.table.rows.items() if row.cost.trainable_params <= limit}
        return Arena(
            f"{self.name}, at most {share:.1%}", Table(self.table.header, kept), self.space, self.classes, limit
        )

    @property
    def full(self) -> int:
        """Training steps of one candidate."""
        return self.table.header.rungs[-1]

    @cached_property
    def points(self) -> Points:
        """The candidates of the table."""
        return Points(self.space, [row.candidate for row in self.rows])

    def row(self, candidate: Candidate) -> Row:
        """Return what the table holds of a candidate."""
        return self.table.rows[candidate.sha256, 0]

    def values(self, rows: Sequence[Row], split: str = "validation") -> NDArray[np.float64]:
        """Return accuracy and the logarithm of the trainable parameters, shape [rows, 2]."""
        at = self.table.header.quality.index("accuracy")
        found = [
            [(row.test if split == "test" else row.validation)[-1][at], log10(max(1, row.cost.trainable_params))]
            for row in rows
            if not row.cause
        ]
        return np.array(found, dtype=np.float64).reshape(-1, 2)

    def front(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that validation puts on the front."""
        trained = [row for row in rows if not row.cause]
        kept = non_dominated(self.values(trained), DIRECTIONS)
        return [row for row, on in zip(trained, kept, strict=True) if on]

    def volume(self, rows: Sequence[Row], split: str = "validation") -> float:
        """Return the normalised hypervolume of the rows that validation puts on the front.

        Between guessing at the parameter limit and every example right with one parameter, parameters by logarithm.
        """
        front = self.front(rows)
        return self.volume_of(self.values(front, split)) if front else 0.0

    def volume_of(self, values: NDArray[np.float64]) -> float:
        """Return the normalised hypervolume in that box of what `values` returns of a front, shape [rows, 2]."""
        return normalized_hypervolume(values, (1 / self.classes, log10(self.limit)), (1.0, 0.0), DIRECTIONS)

    def options(self, rows: Sequence[Row]) -> list[Option]:
        """Return rows as what the forest sees of candidates before they are trained."""
        layers = self.space.anatomy.n_layers
        return [Option.of(row.candidate, layers, {"trainable_params": row.cost.trainable_params}) for row in rows]

    def box(self, objectives: Sequence[Mapping[str, str]]) -> Box:
        """Return where the forest measures the volume of accuracy, or of accuracy and trainable parameters."""
        worst = {"accuracy": 1.0 / self.classes, "trainable_params": float(self.limit)}
        return Box([Objective.model_validate(one) for one in objectives], worst, {})

    def best(self, rows: Sequence[Row], share: float) -> Row | None:
        """Return the row that validation puts first among those of at most a share of the backbone's parameters."""
        most = share * self.backbone + 1e-6  # a share of one's own size lets one in, whatever binary fractions say
        fitting = [row for row in rows if not row.cause and row.cost.trainable_params <= most]
        return max(fitting, key=lambda row: self.values([row])[0, 0], default=None)


Search = Callable[[Arena, int, int], list[Finished]]
"""Takes an arena, training steps and a seed; returns what it trained to the end, in order."""
