"""The calibrator and the conformal sets in a folder: of an export, or of what `paretune calibrate --to` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from calibration.calibrators import Calibrator
from calibration.errors import DocumentError
from calibration.sets import Fits, sets_from_json
from evaluators.evaluation import CALIBRATION_FILE, SETS_FILE
from evaluators.task_calibrator import read_calibrator
from search_space.errors import ExportError

CALIBRATOR_FILE = "calibrator.json"
"""What `paretune calibrate` calls its calibrator."""


def sets_file(task: str = "") -> str:
    """Return the name of the file with the conformal sets, of one of several tasks where it is named."""
    return f"{task}.{SETS_FILE}" if task else SETS_FILE


def read_fits(folder: Path, task: str = "") -> tuple[Calibrator | None, Fits]:
    """Return the calibrator in a folder and its conformal sets; None and nothing where there are none.

    Args:
        folder: Of an export, or of what `paretune calibrate --to` wrote.
        task: Which of several tasks the sets are of, where there are several.

    Raises:
        ExportError: They are there and cannot be read.
    """
    found = [one for name in (CALIBRATION_FILE, CALIBRATOR_FILE) if (one := _document(folder / name)) is not None]
    sets = _document(folder / sets_file(task))
    try:
        calibrator = read_calibrator(found[0]) if found else None
        return calibrator, {} if sets is None else sets_from_json(sets)
    except DocumentError as error:
        raise ExportError(f"{folder}: {error}") from error


def _document(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
