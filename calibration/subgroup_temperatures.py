"""A temperature for each subgroup, drawn to the common one as far as its rows do not say otherwise.

Each subgroup's own optimum x_g = log T_g has a standard error s_g. The optima are taken for draws around the common
log T with a variance v, estimated by the method of moments (DerSimonian & Laird 1986): what they differ by beyond what
their standard errors explain, and 0 where they do not. Then

    log T_g  =  log T + v / (v + s_g^2) (x_g - log T)

the empirical-Bayes estimate (Efron & Morris 1975). So a small subgroup hardly moves, none does where they do not
differ, and a subgroup without an optimum inside the bounds (separable, say), or one that the fit has not seen, has the
common temperature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.documents import Fields, headed
from calibration.errors import DocumentError
from calibration.fitted_rows import FittedRows, Ids
from calibration.rows import FloatArray, check_several_classes, checked_logits
from calibration.softmax import log_softmax
from calibration.subgroups import checked_subgroups
from calibration.temperature import TemperatureFit, fit_rows, labelled_logits


@dataclass(frozen=True)
class SubgroupTemperatures:
    """Fitted temperatures.

    Attributes:
        common: The temperature of all rows together.
        temperatures: Of each subgroup that the fit saw.
        spread: Standard deviation of log T between subgroups, as it was estimated.
        fitted_on: The rows of the fit, which scores refuse.
    """

    common: TemperatureFit
    temperatures: Mapping[str, float]
    spread: float
    fitted_on: FittedRows = field(default_factory=FittedRows)

    kind = "subgroup_temperatures"

    def apply(self, logits: npt.ArrayLike, subgroups: npt.ArrayLike) -> FloatArray:
        """Return logits of shape (n, k), each row's over the temperature of its subgroup.

        Raises:
            CalibrationError: Logits or subgroups that are not fit to use.
        """
        array = checked_logits(logits)
        names, numbers = np.unique(checked_subgroups(subgroups, len(array)), return_inverse=True)
        own = np.array([self.temperatures.get(str(name), self.common.temperature) for name in names])
        return array / own[numbers][:, np.newaxis]

    def held_out_log_probabilities(
        self, logits: npt.ArrayLike, subgroups: npt.ArrayLike, *, ids: Ids | None = None
    ) -> FloatArray:
        """Return calibrated log-probabilities of rows that may be scored.

        Raises:
            SeenRowsError: The rows are rows of the fit.
            CalibrationError: As `apply`.
        """
        self.fitted_on.refuse(checked_logits(logits), ids)
        return log_softmax(self.apply(logits, subgroups))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document with a schema version."""
        body = {"temperatures": dict(self.temperatures), "spread": self.spread}
        return headed(self.kind, {"common": self.common.to_json(), **body, "fitted_on": self.fitted_on.to_json()})

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SubgroupTemperatures:
        """Return the fit that `to_json` wrote.

        Raises:
            DocumentError: Another version or kind, unknown or missing keys, or values out of range.
        """
        fields = Fields.headed(document, (cls.kind,), {"common", "temperatures", "spread", "fitted_on"})
        given = fields.document("temperatures")
        own = Fields(given, "temperatures", set(given))
        if not given:
            raise DocumentError("temperatures is empty; at least one subgroup is needed.")
        return cls(
            common=TemperatureFit.from_json(fields.document("common")),
            temperatures={name: own.number(name, above=0.0) for name in given},
            spread=fields.number("spread", at_least=0.0),
            fitted_on=FittedRows.from_json(fields.document("fitted_on")),
        )


def fit_subgroup_temperatures(
    logits: npt.ArrayLike, labels: npt.ArrayLike, subgroups: npt.ArrayLike, *, ids: Ids | None = None
) -> SubgroupTemperatures:
    """Fit a temperature to each subgroup.

    Args:
        logits: Raw logits of shape (n, k).
        labels: Class indices of shape (n,), at least two distinct.
        subgroups: The name of each row's subgroup, shape (n,).
        ids: Optional ids of the rows, kept as hashes so that later scores refuse these rows exactly.

    Raises:
        CalibrationError: As `fit_temperature`; subgroups that are not fit to use.
    """
    array, targets = labelled_logits(logits, labels)
    check_several_classes(targets)
    names = checked_subgroups(subgroups, len(array))
    rows, ones = FittedRows.of(array, ids), np.ones(len(array))
    common = fit_rows(array, targets, ones, rows)
    parts = {str(name): names == name for name in np.unique(names)}
    own = {name: fit_rows(array[one], targets[one], ones[one], FittedRows()) for name, one in parts.items()}
    known = {name: (math.log(fit.temperature), error) for name, fit in own.items() if (error := _error(fit))}
    center, variance = math.log(common.temperature), _variance_between(list(known.values()))
    shrunk = {name: center + variance / (variance + error**2) * (at - center) for name, (at, error) in known.items()}
    temperatures = {name: math.exp(shrunk.get(name, center)) for name in own}
    return SubgroupTemperatures(common, temperatures, math.sqrt(variance), rows)


def _error(fit: TemperatureFit) -> float | None:
    """Return the standard error of log T; None where there is no optimum inside the bounds."""
    return None if fit.standard_error is None else fit.standard_error / fit.temperature


def _variance_between(known: list[tuple[float, float]]) -> float:
    """Return DerSimonian and Laird's variance between subgroups, from their estimates and standard errors."""
    if len(known) < 2:
        return 0.0
    values, errors = np.array(known).T
    weights = 1.0 / errors**2
    mean = weights @ values / weights.sum()
    excess = weights @ (values - mean) ** 2 - (len(known) - 1)
    return max(0.0, float(excess / (weights.sum() - weights @ weights / weights.sum())))
