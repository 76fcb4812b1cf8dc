"""Every error that Paretune raises on purpose, in one tree.

    ParetuneError
    ├── SpecError               a study file or a request is wrong; carries every Problem found
    ├── CandidateError          a candidate, part or recipe is not valid
    │   └── NotationError       the short notation does not parse
    ├── PlacementError          a placement matches nothing in this model
    ├── UnsupportedError        the model, the task or the machine cannot carry this
    │   └── TracingError        the process that predicts memory died or hung over a candidate
    ├── EmptySpaceError         no member of the space fits the budgets
    ├── EvaluationError         one candidate failed while it was evaluated; carries its Cause
    ├── DataError               a data set or a model folder cannot be read as described
    ├── StudyError              a study cannot be found, created or continued
    │   ├── StudyNotFoundError
    │   ├── StudyExistsError
    │   └── StudyLockedError
    ├── ExportError             a trial cannot be exported, or its export does not reload to equal outputs
    ├── InputError              what a command was given cannot be used
    └── InstallationError       this installation cannot run Paretune

`calibration` is usable alone and raises its own `CalibrationError(ValueError)`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Cause = Literal["out_of_memory", "diverged", "unmeasured", "timeout", "crashed", "raised", "interrupted", "unsupported"]


class ParetuneError(Exception):
    """Root of the tree: catch this to catch everything that Paretune raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a user's input.

    Attributes:
        path: Where, as a dotted path (`budgets.memory`); empty for the whole input.
        message: What is wrong, what is allowed and what to do.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ParetuneError):
    """A study file or a request is wrong. Holds every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem], source: str = "study") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = len(self.problems)
        head = f"{source}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class CandidateError(ParetuneError):
    """A candidate, part or recipe is not valid."""


class NotationError(CandidateError):
    """The short notation does not parse. The message shows the place."""


class PlacementError(ParetuneError):
    """A placement matches nothing in this model."""


class UnsupportedError(ParetuneError):
    """The model, the task or the machine cannot carry this."""


class TracingError(UnsupportedError):
    """The process that predicts memory died or hung, so that nothing is known of a candidate."""


class EmptySpaceError(ParetuneError):
    """No member of the space fits the budgets. The message names the nearest that would."""


class EvaluationError(ParetuneError):
    """One candidate failed while it was evaluated. The study goes on."""

    def __init__(self, cause: Cause, message: str) -> None:
        self.cause: Cause = cause
        super().__init__(message)


class DataError(ParetuneError):
    """A data set or a model folder cannot be read as described."""


class StudyError(ParetuneError):
    """A study cannot be found, created or continued."""


class StudyNotFoundError(StudyError):
    """There is no study of this name in the storage."""


class StudyExistsError(StudyError):
    """A study of this name exists with another spec."""


class StudyLockedError(StudyError):
    """Another process drives this study."""


class ExportError(ParetuneError):
    """A trial cannot be exported, or its export does not reload to equal outputs."""


class InputError(ParetuneError):
    """What a command was given cannot be used."""


class InstallationError(ParetuneError):
    """This installation cannot run Paretune."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def one_of(allowed: Iterable[str]) -> str:
    """Return the allowed words as a readable list, in their own order."""
    return ", ".join(repr(word) for word in allowed)
