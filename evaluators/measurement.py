"""Measuring a model: quality from its logits, latency from its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.ece import debiased_squared_error, ece
from calibration.floor import ece_floor
from calibration.proper_scores import brier, nll_from_logits, surprises
from calibration.softmax import softmax
from calibration.spec import CalibrationSpec
from calibration.subgroups import rows_by_subgroup
from calibration.temperature import cross_fitted_nll
from evaluators.tokens import Batch, Tokens

_WARM_UP, _RUNS = 3, 20


def quality(
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    spec: CalibrationSpec,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Return the quality metrics of some logits before calibration, and the NLL after a cross-fitted temperature.

    Args:
        logits: Shape [examples, classes].
        labels: Class indices, shape [examples].
        spec: Bins, folds and draws.
        groups: Rows of one group stay in one fold.
    """
    probabilities = softmax(logits)
    return {
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
        "macro_f1": macro_f1(logits.argmax(axis=1), labels),
        "nll": nll_from_logits(logits, labels),
        "calibrated_nll": cross_fitted_nll(logits, labels, folds=spec.folds, groups=groups),
        "ece": ece(probabilities, labels, bins=spec.bins),
        "debiased_squared_error": debiased_squared_error(probabilities, labels, bins=spec.bins),
        "brier": brier(probabilities, labels),
    }


def calibrated_quality(
    logits: NDArray[np.float64], after: NDArray[np.float64], labels: NDArray[np.int64], spec: CalibrationSpec
) -> dict[str, float]:
    """Return what calibration adds: `calibrated_ece`, and the floors and p-values of ECE before and after.

    Args:
        logits: Shape [examples, classes].
        after: Calibrated log-probabilities of the same rows, by calibrators that were not fitted on them.
        labels: Class indices, shape [examples].
        spec: Bins and draws.
    """
    before = ece_floor(softmax(logits), labels, bins=spec.bins, draws=spec.floor_draws)
    mended = ece_floor(np.exp(after), labels, bins=spec.bins, draws=spec.floor_draws)
    return {
        "calibrated_ece": mended.ece,
        "ece_floor": before.floor_mean,
        "ece_p_value": before.p_value,
        "calibrated_ece_floor": mended.floor_mean,
        "calibrated_ece_p_value": mended.p_value,
    }


def subgroup_quality(
    logits: NDArray[np.float64], labels: NDArray[np.int64], subgroups: NDArray[np.str_] | None, spec: CalibrationSpec,
    after: NDArray[np.float64] | None = None, groups: NDArray[np.int64] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return accuracy and NLL of the subgroup where each is worst; nothing where no subgroup has enough rows.

    A worst calibration error is not among them: the largest of several noisy errors is mostly noise.

    Args:
        logits: Shape [examples, classes].
        labels: Class indices, shape [examples].
        subgroups: The name of each example's subgroup; None where there are none.
        spec: How few rows are too few, and the folds.
        after: Calibrated log-probabilities of the same rows; with a cross-fitted temperature when None.
        groups: Rows of one group stay in one fold.
    """
    if subgroups is None:
        return {}
    logs = after
    if logs is None:
        logs = cross_fitted_log_probabilities(logits, labels, folds=spec.folds, groups=groups)
    parts, _, _ = rows_by_subgroup(subgroups, spec.least_subgroup)
    if not parts:
        return {}
    right, losses = logits.argmax(axis=1) == labels, surprises(logs, labels)
    return {
        "worst_subgroup_accuracy": min(float(right[rows].mean()) for rows in parts.values()),
        "worst_subgroup_nll": max(float(losses[rows].mean()) for rows in parts.values()),
    }


def held_out_quality(
    logits: NDArray[np.float64], after: NDArray[np.float64], labels: NDArray[np.int64], spec: CalibrationSpec
) -> dict[str, float]:
    """Return what `calibrated_quality` does, and the NLL of log-probabilities whose calibrator never saw these rows."""
    return calibrated_quality(logits, after, labels, spec) | {"calibrated_nll": nll_from_logits(after, labels)}


def predict_logits(
    forward: Callable[[list[int], Batch], Tensor],
    tokens: Tokens,
    classes: int,
    size: int,
    device: torch.device,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return logits of shape [examples, classes], in the order of the examples; `-inf` in the columns of other tasks.

    Args:
        forward: Takes the positions and the batch of some examples, gives their logits.
        tokens: The examples.
        classes: How many there are, of all tasks.
        size: Examples of a forward pass.
        device: Where batches go.
        rows: Positions of the examples that are asked for, rising; all of them when None.
    """
    logits = np.full((len(tokens.ids), classes), -np.inf)
    with torch.inference_mode():
        for indices in tokens.by_length(size, rows):
            batch = tokens.batch(indices, device)
            logits[indices, slice(*batch.columns)] = batch.own(forward(indices, batch)).double().cpu().numpy()
    return logits if rows is None else logits[rows]


def macro_f1(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the unweighted mean of F1 over the classes that occur."""
    scores = []
    for one in np.union1d(predicted, labels):
        hits = np.sum((predicted == one) & (labels == one))
        scores.append(2 * hits / (np.sum(predicted == one) + np.sum(labels == one)))
    return float(np.mean(scores))


def latency_ms(model: nn.Module, tokens: Tokens, device: torch.device) -> float:
    """Return the median milliseconds to classify one example of median length, after a warm-up."""
    order = sorted(range(len(tokens.ids)), key=lambda i: len(tokens.ids[i]))
    batch = tokens.batch([order[len(order) // 2]], device)
    model.eval()
    with torch.inference_mode():
        return median_ms(lambda: model(**batch.inputs).logits.cpu())


def median_ms(call: Callable[[], object]) -> float:
    """Return the median milliseconds of a call, after a warm-up."""
    times = []
    for _ in range(_WARM_UP + _RUNS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * median(times[_WARM_UP:])
