"""Pictures of how far probabilities can be trusted: before and after calibration, as a page and as a PNG."""

from __future__ import annotations

import html
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors.numpy

from calibration.calibrators import Calibrator, calibrator_from_json
from calibration.figures import overview_figure, overview_png
from calibration.softmax import softmax
from evaluators.evaluation import CALIBRATION_FILE, PREDICTIONS_FILE

PAGE, PICTURE = "calibration.html", "calibration.png"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
</head>
<body>
{figure}
</body>
</html>
"""


def calibration_files(
    before: npt.ArrayLike, after: npt.ArrayLike, labels: npt.ArrayLike, *, title: str, bins: int = 15, seed: int = 0
) -> dict[str, bytes]:
    """Return the page, which opens without a network, and the PNG, by file name.

    Args:
        before: Probabilities of shape (n, k) before calibration.
        after: Probabilities of the same rows after it, by a calibrator that was not fitted on them.
        labels: Class indices of shape (n,).
        title: Of the page.
        bins: Of the reliability diagram and the histogram.
        seed: Of the consistency band.

    Raises:
        CalibrationError: Arrays that are not fit to use.
    """
    figure = overview_figure(before, after, labels, bins=bins, seed=seed)
    figure.update_layout(title=html.escape(title))
    inner = figure.to_html(include_plotlyjs=True, include_mathjax=False, full_html=False, div_id="calibration")
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        picture = overview_png(Path(folder, PICTURE), before, after, labels, bins=bins, seed=seed).read_bytes()
    return {PAGE: _PAGE.format(title=html.escape(title), figure=inner).encode(), PICTURE: picture}


def trial_files(folder: Path, title: str, bins: int = 15) -> dict[str, bytes]:
    """Return the pictures of a trained candidate on validation, from what it left in its folder.

    Args:
        folder: The trial's folder.
        title: Of the page.
        bins: Of the reliability diagram and the histogram.

    Returns:
        The files by name; nothing where the trial's files are not here, or where nothing was calibrated.

    Raises:
        CalibrationError: What it left is not fit to use.
        OSError: It cannot be read.
        safetensors.SafetensorError: It is damaged.
        ValueError: It is damaged.
    """
    predictions, calibrator = folder / PREDICTIONS_FILE, folder / CALIBRATION_FILE
    if not (predictions.exists() and calibrator.exists()):
        return {}
    arrays = safetensors.numpy.load_file(predictions)
    logits, labels = arrays["validation_logits"], arrays["validation_labels"]
    fitted: Calibrator = calibrator_from_json(_read(calibrator))
    return calibration_files(softmax(logits), fitted.probabilities(logits), labels, title=title, bins=bins)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document
