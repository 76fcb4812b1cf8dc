"""What is measured of a run's logits: before and after the temperature of its calibration rows, and against people."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_data.data import DOMAINS, material
from calibration.ece import debiased_squared_error, ece
from calibration.floor import ece_floor
from calibration.proper_scores import nll_from_logits
from calibration.softmax import softmax
from calibration.temperature import TemperatureFit, cross_fitted_nll, fit_temperature

Floats = NDArray[np.float64]
JUDGED = ("test", *DOMAINS)
FEW = (25, 50, 100, 200)
"""Calibration rows, beside all that there are."""
_FLOOR_DRAWS = 500


def measured(task: str, logits: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Return every measure by role: `test`, and the other domains where there are any.

    Before and after means with the temperature of the calibration rows of the training domain. `own_nll` is the NLL
    with a temperature of the domain's own, cross-fitted: what no temperature mends. `people_*` compare with the share
    of people who found a text positive, instead of with the label.
    """
    data = material(task)
    fit = fit_temperature(logits["calibration"], data.judged["calibration"].labels)
    found = {}
    for role in (one for one in JUDGED if one in logits):
        labels = data.judged[role].labels
        found[role] = _scores(logits[role], labels, fit) | {"own_nll": cross_fitted_nll(logits[role], labels)}
        if role == "test":
            found[role] |= _floors(logits[role], labels, fit)
        if role in data.positive:
            found[role] |= _against_people(logits, role, data.positive, fit)
    return found


def nll_by_calibration_rows(task: str, logits: Mapping[str, Floats], draws: int = 20) -> dict[int, float]:
    """Return the test NLL with a temperature of so many calibration rows, mean over draws of them."""
    data = material(task)
    labels, test = data.judged["calibration"].labels, data.judged["test"].labels
    random = np.random.default_rng(0)
    found = {}
    for count in (*FEW, len(labels)):
        values = []
        for _ in range(draws if count < len(labels) else 1):
            rows = random.permutation(len(labels))[:count]
            fit = fit_temperature(logits["calibration"][rows], labels[rows])
            values.append(nll_from_logits(fit.apply(logits["test"]), test))
        found[count] = float(np.mean(values))
    return found


def surprises(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the NLL of each row."""
    p = softmax(logits)[np.arange(len(labels)), labels]
    return np.asarray(-np.log(p))


def _scores(logits: Floats, labels: NDArray[np.int64], fit: TemperatureFit) -> dict[str, float]:
    before, after = softmax(logits), fit.probabilities(logits)
    return {
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
        "temperature": fit.temperature,
        "nll": nll_from_logits(logits, labels),
        "nll_after": nll_from_logits(fit.apply(logits), labels),
        "ece": ece(before, labels),
        "ece_after": ece(after, labels),
        "debiased": debiased_squared_error(before, labels),
        "debiased_after": debiased_squared_error(after, labels),
    }


def _floors(logits: Floats, labels: NDArray[np.int64], fit: TemperatureFit) -> dict[str, float]:
    """Return what ECE a perfectly calibrated model would show, and whether more was seen than chance gives at 5 %."""
    found = {}
    for name, said in (("", softmax(logits)), ("_after", fit.probabilities(logits))):
        floor = ece_floor(said, labels, draws=_FLOOR_DRAWS)
        found |= {f"floor{name}": floor.floor_mean, f"rejected{name}": float(floor.p_value < 0.05)}
    return found


def _against_people(
    logits: Mapping[str, Floats], role: str, positive: Mapping[str, Floats], fit: TemperatureFit
) -> dict[str, float]:
    """Return the mean squared distance to the share of people, with three temperatures, and the best constant's."""
    share = positive[role]
    of_people = _fit_to_people(logits["calibration"], positive["calibration"])
    said = {
        "people": softmax(logits[role])[:, 1],
        "people_after": fit.probabilities(logits[role])[:, 1],
        "people_own": of_people.probabilities(logits[role])[:, 1],
    }
    distances = {name: float(np.mean(np.square(one - share))) for name, one in said.items()}
    return distances | {"people_temperature": of_people.temperature}


def _fit_to_people(logits: Floats, share: Floats) -> TemperatureFit:
    """Fit the temperature to shares of people: each row counts for both classes, by their shares."""
    labels = np.repeat([1, 0], len(share))
    return fit_temperature(np.vstack([logits, logits]), labels, np.concatenate([share, 1.0 - share]))
