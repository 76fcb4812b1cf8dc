"""Calibration by subgroup: calibrated on all rows together, a model may be too sure on some and too shy on others.

Subgroups are named parts of the rows: sources, subjects, bands of length. A calibration error on few rows is mostly
chance (`calibration.floor`), and the worst of many is chance at its largest. So

    few rows     subgroups of fewer than `least` rows are scored together, as `OTHERS`; not at all where they are too
                 few even then, and how many rows that leaves out is told
    the worst    is that of the largest debiased squared error, an estimate without bias for any number of rows
    p-values     are those of the perfect-model floor, adjusted for the number of subgroups (Holm 1979)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.ece import debiased_squared_error
from calibration.errors import NonFiniteError, ShapeError
from calibration.floor import ece_floor
from calibration.proper_scores import nll
from calibration.rows import BoolArray, FloatArray, IntArray, checked_count, checked_labels, checked_probabilities
from calibration.scorecard import plain

OTHERS = "(others)"
LEAST_ROWS = 50


@dataclass(frozen=True)
class SubgroupScore:
    """One subgroup.

    Attributes:
        name: Its name.
        n: Rows.
        accuracy: Of the top label.
        nll: Nats.
        gap: Mean confidence less accuracy: above 0 is too sure.
        ece: Top label, equal width.
        floor: What a perfect model would show with these rows.
        p_value: Of the error beside that floor, adjusted for the number of subgroups.
        debiased_squared_error: Signed.
    """

    name: str
    n: int
    accuracy: float
    nll: float
    gap: float
    ece: float
    floor: float
    p_value: float
    debiased_squared_error: float


@dataclass(frozen=True)
class Subgroups:
    """Every subgroup that has enough rows.

    Attributes:
        scores: In the order of their names, `OTHERS` last.
        pooled: Names of the small ones that are scored together.
        left_out: Rows that are not scored, being too few.
    """

    scores: tuple[SubgroupScore, ...]
    pooled: tuple[str, ...]
    left_out: int

    @property
    def worst(self) -> SubgroupScore | None:
        """The subgroup of the largest debiased squared error; the first of equals, None where none is scored."""
        return max(self.scores, key=lambda one: one.debiased_squared_error, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; an infinite number is null."""
        scores = [plain(asdict(one)) for one in self.scores]
        return {
            "scores": scores,
            "pooled": list(self.pooled),
            "left_out": self.left_out,
            "worst": self.worst.name if self.worst else None,
        }

    def text(self) -> list[str]:
        """Return a table as lines of text, for people."""
        heads = ("subgroup", "rows", "accuracy", "nll", "confidence - accuracy", "ece (floor, p)", "debiased")
        rows = [heads, *(_cells(one) for one in self.scores)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.worst is not None:
            verdict = "" if self.worst.p_value < 0.05 else ", not distinguishable from a perfect model"
            lines.append(f"worst calibrated: {self.worst.name} (p {self.worst.p_value:.3f}{verdict})")
        if self.pooled:
            lines.append(f"scored together as {OTHERS}: {', '.join(self.pooled)}")
        return [*lines, f"{self.left_out} rows of small subgroups are not scored"] if self.left_out else lines


def subgroup_scores(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    subgroups: npt.ArrayLike,
    *,
    least: int = LEAST_ROWS,
    bins: int = 15,
    draws: int = 1000,
    seed: int = 0,
) -> Subgroups:
    """Return the scores of each subgroup.

    Args:
        probabilities: Shape (n, k), by a calibrator that was not fitted on these rows.
        labels: Class indices of shape (n,).
        subgroups: The name of each row's subgroup, shape (n,).
        least: Rows below which a subgroup is scored with the other small ones.
        bins: Of the calibration errors.
        draws: Of the perfect-model floors.
        seed: Of the draws.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
    """
    array = checked_probabilities(probabilities)
    targets = checked_labels(labels, *array.shape)
    parts, pooled, left_out = rows_by_subgroup(checked_subgroups(subgroups, len(array)), least)
    scores = [_score(name, array[rows], targets[rows], bins, draws, seed) for name, rows in parts.items()]
    return Subgroups(tuple(_adjusted(scores)), pooled, left_out)


def rows_by_subgroup(
    subgroups: npt.NDArray[np.str_], least: int
) -> tuple[Mapping[str, BoolArray], tuple[str, ...], int]:
    """Return the rows of each part that is scored, the names of the small ones among them, and how many rows are not.

    Raises:
        OptionError: `least` is below 2.
    """
    checked_count(least, "least", minimum=2)
    names, numbers, counts = np.unique(subgroups, return_inverse=True, return_counts=True)
    large = counts >= least
    parts = {str(names[at]): numbers == at for at in np.flatnonzero(large)}
    small = ~large[numbers]
    if small.sum() >= least:
        return {**parts, OTHERS: small}, tuple(map(str, names[~large])), 0
    return parts, (), int(small.sum())


def checked_subgroups(subgroups: npt.ArrayLike, n: int) -> npt.NDArray[np.str_]:
    """Return the name of each row's subgroup.

    Raises:
        ShapeError: There is not one for each row.
        NonFiniteError: One is NaN.
    """
    values = np.asarray(subgroups)
    if values.shape != (n,):
        raise ShapeError(f"subgroups have shape {values.shape}; one per row is needed, shape ({n},).")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise NonFiniteError(f"subgroups hold nan at {int(np.flatnonzero(np.isnan(values))[0])}; name every row's.")
    return values.astype(np.str_)


def _score(name: str, p: FloatArray, targets: IntArray, bins: int, draws: int, seed: int) -> SubgroupScore:
    floor = ece_floor(p, targets, bins, draws, seed)
    accuracy = float(np.mean(p.argmax(axis=1) == targets))
    return SubgroupScore(
        name=name,
        n=targets.size,
        accuracy=accuracy,
        nll=nll(p, targets),
        gap=float(p.max(axis=1).mean()) - accuracy,
        ece=floor.ece,
        floor=floor.floor_mean,
        p_value=floor.p_value,
        debiased_squared_error=debiased_squared_error(p, targets, bins=bins),
    )


def _adjusted(scores: Sequence[SubgroupScore]) -> list[SubgroupScore]:
    """Return the scores with Holm's p-values: the least times their number, the next times one less, never falling."""
    order = sorted(range(len(scores)), key=lambda at: scores[at].p_value)
    found, least = list(scores), 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, scores[at].p_value * (len(scores) - rank)))
        found[at] = replace(scores[at], p_value=least)
    return found


def _cells(one: SubgroupScore) -> tuple[str, ...]:
    return (
        one.name,
        str(one.n),
        f"{one.accuracy:.4f}",
        f"{one.nll:.4f}",
        f"{one.gap:+.4f}",
        f"{one.ece:.4f} ({one.floor:.4f}, {one.p_value:.3f})",
        f"{one.debiased_squared_error:+.5f}",
    )
