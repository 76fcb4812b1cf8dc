"""The budget of training steps: what a search has trained, and what its running trials may train until they report.

Steps are reserved before they are trained, as far as the next rung, and what was reserved gives way to what was done
once a trial reports. So the sum never passes the budget, however many trials run at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.score import Score
from orchestrator.spec import StudySpec
from orchestrator.trial import Trial
from search_space.errors import Problem, SpecError

SPENT = "the budget of steps is spent"


class StepBudget:
    """What a search may still train.

    A trial that failed or was cut short counts as far as the rung that it was on its way to: how far it came is not
    known, and it came no further. What a killed driver's trials had done is not counted beside their second try.

    Args:
        most: The budget; None where there is none.
        rungs: Training steps of the rungs, rising; the last is full training.
        pauses: Whether candidates pause at rungs. Then one begins or goes on only where its way to the end is paid for,
            though no more is reserved than its way to the next rung.
    """

    def __init__(self, most: int | None, rungs: Sequence[int], *, pauses: bool = False) -> None:
        self.most, self.rungs, self._may_pause = most, tuple(rungs), pauses
        self._counted: dict[str, int] = {}
        self._on_their_way: set[str] = set()
        self._have_paused = False
        self._sum = 0

    def begins(self, key: str, *, pauses: bool = False) -> bool:
        """Reserve a trial's first rung. Returns whether the budget pays for it.

        Args:
            key: The trial's.
            pauses: Whether it may pause there; else the rest of its training is kept free of what begins after it. So
                it is until one has paused: rungs may not tell what is searched for, and then nobody does.
        """
        if not self._pays(self.rungs[0]):
            return False
        self._keep_free(key, pauses=pauses)
        self._count(key, self.rungs[0])
        return True

    def pauses(self, trial: Trial) -> None:
        """Count a trial that waits at a rung, or was cut off and may go on from one."""
        self._have_paused = self._have_paused or trial.has_paused
        self._on_their_way.discard(trial.key)
        self._count(trial.key, trial.steps)

    def pays_for(self, trial: Trial) -> bool:
        """Whether it pays for the way of a trial that waits at a rung to its end."""
        return self._pays(self._ahead + self.rungs[-1] - self._counted[trial.key])

    def resumes(self, trial: Trial, *, pauses: bool) -> None:
        """Reserve what follows the rung that a trial waits at; `pauses` as for `begins`."""
        self._keep_free(trial.key, pauses=pauses)
        self._count(trial.key, self._after(trial.score))

    def goes_on(self, key: str, score: Score) -> bool:
        """Reserve what follows a rung that a trial reached and did not pause at. Returns whether it is paid for."""
        following = self._after(score)
        if not self._pays(following - self._counted.get(key, 0)):
            return False
        self._on_their_way.add(key)
        self._count(key, following)
        return True

    def reached(self, key: str, step: int) -> None:
        """Take what a trial has done in place of what was reserved for it."""
        self._count(key, step)

    def settled(self, trial: Trial) -> None:
        """Count a trial that has ended."""
        self._on_their_way.discard(trial.key)
        if trial.state == "infeasible" or (trial.cause == "unsupported" and not trial.scores):
            self._count(trial.key, 0)
        elif trial.cause is None or (trial.score is not None and trial.score.full):
            self._count(trial.key, trial.steps)
        else:
            self._count(trial.key, self._after(trial.score))

    @property
    def pays(self) -> bool:
        """Whether it pays for one more candidate: its first rung, or all of it where candidates pause."""
        return self._pays(self._of_one_more)

    @property
    def holds(self) -> bool:
        """Whether running trials are to end before another begins: it could not be paid for beside all that they ask.

        Else many at once would spend all on first rungs, and none of them would be trained to the end.
        """
        return bool(self._on_their_way) and not self._pays(self._ahead + self._of_one_more)

    @property
    def _ahead(self) -> int:
        """Steps that running trials ask for beyond what is reserved, but for those that pause at their next rung."""
        return sum(self.rungs[-1] - self._counted[key] for key in self._on_their_way)

    @property
    def _of_one_more(self) -> int:
        return self.rungs[-1 if self._may_pause else 0]

    def _keep_free(self, key: str, *, pauses: bool) -> None:
        if not (pauses and self._have_paused):
            self._on_their_way.add(key)

    def _pays(self, steps: int) -> bool:
        return self.most is None or self._sum + steps <= self.most

    def _after(self, score: Score | None) -> int:
        """Return the rung behind the one of a score: the most that a candidate with a shorter training too will do."""
        reached = round(score.fidelity * self.rungs[-1]) if score is not None else 0
        return next((one for one in self.rungs if one > reached), self.rungs[-1])

    def _count(self, key: str, steps: int) -> None:
        self._sum += steps - self._counted.get(key, 0)
        self._counted[key] = steps


def check_steps(spec: StudySpec, full: int) -> None:
    """Refuse a budget of steps that no candidate's first rung fits into, or where candidates pause no candidate.

    Args:
        spec: The study's spec.
        full: Steps of full training.

    Raises:
        SpecError: It is such a budget.
    """
    most, first = spec.budgets.steps, spec.search.early_stopping.steps(full)[0]
    what, least = ("full training", full) if spec.pauses else ("first rung", first)
    if most is not None and least > most:
        why = f"{most} training steps of the whole search do not pay for the {what} of one candidate, {least} steps"
        raise SpecError([Problem("budgets.steps", f"{why}; raise them, or lower training.steps")], spec.name)
