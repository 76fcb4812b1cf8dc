"""What is trained and what becomes of it: jobs, their failures, and the work that gives and takes them."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evaluators.score import Score
from search_space.candidate import Candidate
from search_space.errors import Cause, EvaluationError, ParetuneError


@dataclass(frozen=True)
class Job:
    """One candidate to train, as it crosses to an actor.

    Attributes:
        key: Its trial's name inside the study, such as `search/12`.
        candidate: What is trained.
        seed: Seed of its training.
        rungs: Training steps at which it reports, the last being full training.
        folder: Where the actor writes the trained state; None keeps nothing.
        test: Whether it is scored on the test split at the end.
        accumulation: Parts that its steps are divided into; as the study's spec says when None.
    """

    key: str
    candidate: Candidate
    seed: int
    rungs: tuple[int, ...]
    folder: str | None = None
    test: bool = False
    accumulation: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        return {**self.__dict__, "candidate": self.candidate.to_json(), "rungs": list(self.rungs)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Read what `to_json` wrote."""
        candidate = Candidate.from_json(data["candidate"])
        return cls(**{**data, "candidate": candidate, "rungs": tuple(data["rungs"])})


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    cause: Cause
    message: str


class Work(Protocol):
    """Where jobs come from and where their results go. All calls come from one thread."""

    def next_job(self) -> Job | None:
        """Return the next job, or None when there are no more."""

    def on_score(self, job: Job, score: Score) -> bool:
        """Take the score of a rung, or of the test split. Returns whether the job goes on."""

    def on_end(self, job: Job, failure: Failure | None) -> None:
        """Take note that a job ended: at its last rung, stopped at an earlier one, or failed."""

    def should_stop(self) -> bool:
        """Whether everything that runs is to be dropped now."""


def failure_of(error: Exception) -> Failure:
    """Return what an exception of a candidate's training says as a result."""
    return Failure(_cause_of(error), _describe(error))


def _cause_of(error: Exception) -> Cause:
    if isinstance(error, EvaluationError):
        return error.cause
    if isinstance(error, MemoryError):
        return "out_of_memory"
    return "unsupported" if isinstance(error, ParetuneError) else "raised"


def _describe(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = (
        f" ({Path(last[0].filename).name}:{last[0].lineno})" if last and not isinstance(error, ParetuneError) else ""
    )
    return f"{type(error).__name__}: {error}{place}"
