"""What is trained for the tables, in the order in which it is wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.table.tasks import candidates_path, table_path
from evaluators.tabulated import Row, Table


@dataclass(frozen=True)
class Stage:
    """Some trainings of one task.

    Attributes:
        task: `trec` or `movie`.
        origin: Of the candidates.
        seeds: Each candidate is trained on each of them.
        most: Only so many candidates, those that were drawn first; all when None.
    """

    task: str
    origin: str
    seeds: tuple[int, ...] = (0,)
    most: int | None = None

    def rows(self) -> list[Row]:
        """Return what is to be trained, seed after seed."""
        drawn = [row for row in Table.read(candidates_path(self.task)).main() if row.origin == self.origin]
        return [replace(row, seed=seed) for seed in self.seeds for row in drawn[: self.most]]

    def left(self) -> list[Row]:
        """Return what is not in the table yet."""
        path = table_path(self.task)
        there = Table.read(path).rows if path.exists() else {}
        return [row for row in self.rows() if row.key not in there]

    def __str__(self) -> str:
        return f"{self.task}, {self.origin}" + ("" if self.seeds == (0,) else ", further seeds")


SEEDS = (1, 2, 3, 4)
"""Further seeds of the candidates whose noise is measured; all candidates have seed 0."""

STAGES = (
    Stage("trec", "wide"),
    Stage("trec", "baseline"),
    Stage("trec", "autopeft"),
    Stage("movie", "wide"),
    Stage("movie", "baseline"),
    Stage("trec", "wide", SEEDS, most=30),
    Stage("movie", "wide", SEEDS, most=10),
    Stage("movie", "transfer"),
    Stage("trec", "transfer"),
)
"""The first ones are what a contest needs, then the noise. Last what the other task's front does here: `draw` finds it
once that is known."""
