"""One trial of a study, as the storage holds it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evaluators.score import Cost, Score
from search_space.candidate import Candidate
from search_space.errors import Cause

Phase = Literal["search", "references", "finalists"]
State = Literal["running", "paused", "complete", "partial", "infeasible", "failed"]
PHASES: tuple[Phase, ...] = ("search", "references", "finalists")


@dataclass(frozen=True)
class Trial:
    """One trial as the storage holds it.

    Attributes:
        phase: Which part of the study it belongs to.
        number: Its number in its phase, from 0.
        candidate: What was tried.
        seed: Seed of its training.
        cost: What was known before training.
        scores: One per rung passed, in order.
        test: Score on the test split; finalists only.
        state: What became of it. A paused one was trained to a rung and waits there; it may go on.
        cause: Why it failed.
        message: Cause, reason or limit in words.
        origin: For finalists the number of the search trial; for references their name; in the search what proposed it.
        started: When it was drawn.
        finished: When its state was settled.
        has_paused: Whether it was ever paused, also where it went on since.
    """

    phase: Phase
    number: int
    candidate: Candidate
    seed: int
    cost: Cost | None
    scores: tuple[Score, ...]
    test: Score | None
    state: State
    cause: Cause | None
    message: str
    origin: str
    started: datetime | None
    finished: datetime | None
    has_paused: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether its state is final: it neither runs nor may go on."""
        return self.state not in ("running", "paused")

    @property
    def score(self) -> Score | None:
        """The last score, at whatever fidelity."""
        return self.scores[-1] if self.scores else None

    @property
    def steps(self) -> int:
        """Training steps done."""
        return self.scores[-1].step if self.scores else 0

    @property
    def key(self) -> str:
        """Its name inside the study, such as `search/12`."""
        return f"{self.phase}/{self.number}"
