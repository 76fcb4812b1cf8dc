"""What is trained and what becomes of it: jobs, their failures, and the work that gives and takes them."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from evaluators.out_of_memory import lacks_memory
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
        keeps: Whether what it has at a rung is kept in its folder, so that it can go on from there later.
        goes_on: Whether it goes on from what is kept there; from its beginning where that is lost.
        mates: Jobs that are trained beside it on one actor, each to its own end: the same candidate on other seeds, or
            candidates that can share its forward pass.
    """

    key: str
    candidate: Candidate
    seed: int
    rungs: tuple[int, ...]
    folder: str | None = None
    test: bool = False
    accumulation: int | None = None
    keeps: bool = False
    goes_on: bool = False
    mates: tuple[Job, ...] = ()

    @property
    def crew(self) -> tuple[Job, ...]:
        """This job without its mates, and these."""
        return (replace(self, mates=()), *self.mates)

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        mates = [mate.to_json() for mate in self.mates]
        return {**self.__dict__, "candidate": self.candidate.to_json(), "rungs": list(self.rungs), "mates": mates}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Read what `to_json` wrote."""
        candidate = Candidate.from_json(data["candidate"])
        mates = tuple(map(cls.from_json, data["mates"]))
        return cls(**{**data, "candidate": candidate, "rungs": tuple(data["rungs"]), "mates": mates})


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    cause: Cause
    message: str


def in_crews(jobs: Iterable[Job], size: int) -> list[Job]:
    """Return jobs with those of the same candidate as mates, at most `size` together, in the order of the first."""
    crews: list[list[Job]] = []
    for job in jobs:
        last = next((one for one in reversed(crews) if one[0].candidate == job.candidate), None)
        if last is not None and len(last) < size:
            last.append(job)
        else:
            crews.append([job])
    return [replace(first, mates=tuple(mates)) for first, *mates in crews]


class Work(Protocol):
    """Where jobs come from and where their results go. All calls come from one thread."""

    def next_job(self) -> Job | None:
        """Return the next job, or None when there is none now."""

    def more_later(self) -> bool:
        """Whether, after None, there may be another job once one that runs has reported or ended."""

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
    if lacks_memory(error):
        return "out_of_memory"
    return "unsupported" if isinstance(error, ParetuneError) else "raised"


def _describe(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = (
        f" ({Path(last[0].filename).name}:{last[0].lineno})" if last and not isinstance(error, ParetuneError) else ""
    )
    return f"{type(error).__name__}: {error}{place}"
