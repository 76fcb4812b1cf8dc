"""Siblings: candidates that can share the forward pass of one that was proposed, and whether that pays here."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from evaluators.packable import WORTH, held, shape_of
from evaluators.score import GAIN
from orchestrator.jobs import Job
from orchestrator.preparation import Prepared
from orchestrator.spec import StudySpec, is_about
from orchestrator.trial import Trial

_LOG = logging.getLogger("paretune.search")
_SHARED = ("training_seconds", "train_step_ms", "training_joules")
"""What a member of a crew has a share of: beside candidates that were trained alone it would look cheap."""
_ENOUGH = 3
"""Shapes after which a study in which none was worth it asks for no siblings any more."""


class Siblings:
    """Which candidates of a study get siblings, and how many.

    None where `resources.together` is 1, where a table is searched, where there are several tasks, and where the study
    is about the time or the energy of training.
    """

    def __init__(self, spec: StudySpec, prepared: Prepared) -> None:
        about_time = is_about(_SHARED, spec.objectives, spec.budgets)
        self._most = 0 if prepared.points is not None or prepared.tasks or about_time else spec.resources.together - 1
        self._space = prepared.space
        self._gains: dict[str, float] = {}
        self._told = False

    def note(self, trial: Trial) -> None:
        """Take what a trial of the search says of the gain of its crew."""
        gain = trial.score.values.get(GAIN) if trial.score is not None else None
        shape = shape_of(trial.candidate) if gain is not None else None
        if gain is None or shape is None or self._gains.get(shape) == gain:
            return
        self._gains[shape] = gain
        if gain < WORTH and not self._told:
            self._told = True
            _LOG.warning(
                "packing does not pay here: apart, candidates such as trial %d took %.3g times as long as together, "
                "and it is worth it from %g on; candidates of that shape are trained alone from now on",
                trial.number, gain, WORTH,
            )  # fmt: skip

    def wanted(self, job: Job) -> int:
        """Return how many siblings of a job may be asked for."""
        shape = shape_of(job.candidate)
        if shape is None or (job.accumulation or 1) > 1 or self._gains.get(shape, WORTH) < WORTH:
            return 0
        paid = any(gain >= WORTH for gain in self._gains.values())
        return self._most if paid or len(self._gains) < _ENOUGH else 0

    def held(self, job: Job) -> Mapping[str, str | int | float] | None:
        """Return the parameters that siblings of a job have in common with it; None where nothing else is searched."""
        return held(self._space, job.candidate)

    @staticmethod
    def go_together(job: Job, other: Job) -> bool:
        """Whether a job can share the forward pass of another."""
        return shape_of(job.candidate) == shape_of(other.candidate) and (other.accumulation or 1) == 1
