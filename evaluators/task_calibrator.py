"""A calibrator for each of several tasks, behind the face of one: rows are told apart by their answer sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from calibration.calibrators import Calibrator, calibrator_from_json
from calibration.documents import headed
from calibration.errors import DocumentError
from calibration.fitted_rows import FittedRows
from calibration.rows import checked_logits
from calibration.softmax import softmax
from evaluators.tasks import Floats, TaskColumns


@dataclass(frozen=True)
class TaskCalibrator:
    """Calibrates each row by the calibrator of its task.

    Attributes:
        tasks: Whose the columns are.
        fits: A calibrator for each task, in their order.
        fitted_on: The rows of all fits.
    """

    kind: ClassVar[str] = "tasks"

    tasks: tuple[TaskColumns, ...]
    fits: tuple[Calibrator, ...]
    fitted_on: FittedRows

    @property
    def n(self) -> int:
        """Rows of all fits."""
        return sum(one.n for one in self.fits)

    def of(self, task: str) -> Calibrator:
        """Return the calibrator of one task. Raises KeyError."""
        return {one.name: fit for one, fit in zip(self.tasks, self.fits, strict=True)}[task]

    def apply(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> Floats:
        """Return calibrated logits, shape [examples, classes of all tasks]; `-inf` outside a row's task."""
        array = checked_logits(logits, answer_set)
        whole = np.full(array.shape, -np.inf)
        inside = np.isfinite(array)
        for one, fit in zip(self.tasks, self.fits, strict=True):
            rows = inside[:, one.start : one.stop].any(axis=1)
            if rows.any():
                whole[rows, one.start : one.stop] = fit.apply(array[rows, one.start : one.stop])
        return whole

    def probabilities(self, logits: npt.ArrayLike, answer_set: npt.ArrayLike | None = None) -> Floats:
        """Return calibrated probabilities of the same shape; 0 outside a row's task."""
        return softmax(self.apply(logits, answer_set))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document."""
        each = [
            {"name": one.name, "start": one.start, "stop": one.stop, "calibrator": fit.to_json()}
            for one, fit in zip(self.tasks, self.fits, strict=True)
        ]
        return headed(self.kind, {"tasks": each, "fitted_on": self.fitted_on.to_json()})

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TaskCalibrator:
        """Read what `to_json` wrote. Raises DocumentError."""
        try:
            tasks = tuple(TaskColumns(one["name"], one["start"], one["stop"]) for one in document["tasks"])
            fits = tuple(calibrator_from_json(one["calibrator"]) for one in document["tasks"])
            return cls(tasks, fits, FittedRows.from_json(document["fitted_on"]))
        except (KeyError, TypeError) as error:
            raise DocumentError(f"the document of a calibrator of several tasks lacks {error}") from error


def read_calibrator(document: dict[str, Any]) -> Calibrator:
    """Return the calibrator that some `to_json` wrote, of one task or of several. Raises DocumentError."""
    if isinstance(document, dict) and document.get("kind") == TaskCalibrator.kind:
        return TaskCalibrator.from_json(document)
    return calibrator_from_json(document)
