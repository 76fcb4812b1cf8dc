"""Pictures of how far probabilities can be trusted: before and after calibration, as a page and as a PNG."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from calibration.figures import overview_figure, overview_png
from calibration.softmax import softmax
from evaluators.evaluation import PREDICTIONS_FILE

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
    predictions = folder / PREDICTIONS_FILE
    arrays = safetensors.numpy.load_file(predictions) if predictions.exists() else {}
    if "validation_calibrated" not in arrays:
        return {}
    before, after = softmax(arrays["validation_logits"]), np.exp(arrays["validation_calibrated"])
    return calibration_files(before, after, arrays["validation_labels"], title=title, bins=bins)
