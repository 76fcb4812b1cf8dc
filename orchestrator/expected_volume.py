"""What candidates are expected to add to the volume that a front dominates (Emmerich et al. 2006).

The volume is that of the unit box from the best to the reference point; costs count by their logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10

import numpy as np

from evaluators.score import METRICS
from orchestrator.dominance import FloatArray, non_dominated
from orchestrator.spec import Objective
from orchestrator.trees import Numbers
from search_space.candidate import Candidate
from search_space.features import features


@dataclass(frozen=True)
class Option:
    """A candidate that could be proposed, in numbers.

    Attributes:
        numbers: Named numbers of the candidate, the logarithms of its costs among them.
        costs: What is known of it before training, by metric: trainable parameters, and objectives.
        architecture: Identity of the candidate without its recipe.
    """

    numbers: Numbers
    costs: Mapping[str, float]
    architecture: str

    @classmethod
    def of(cls, candidate: Candidate, n_layers: int, costs: Mapping[str, float]) -> Option:
        """Return a candidate in numbers."""
        logs = {f"log {name}": log10(max(1.0, value)) for name, value in costs.items()}
        return cls(Numbers(features(candidate, n_layers) | logs), costs, candidate.architecture_sha256)


@dataclass(frozen=True)
class Box:
    """The unit box that volume is measured in: from the best (0) to the reference point (1).

    Attributes:
        objectives: Its axes.
        worst: The reference point, by metric.
        least: Where the axis of a cost that is no count of parameters begins, by metric.
    """

    objectives: Sequence[Objective]
    worst: Mapping[str, float]
    least: Mapping[str, float]

    def of(self, values: FloatArray) -> FloatArray:
        """Return values [..., objectives] as shares of the way from best to worst; costs by their logarithm."""
        columns = []
        for at, one in enumerate(self.objectives):
            worst, column = self.worst[one.metric], values[..., at]
            if METRICS[one.metric].on_split:
                best = 1.0 if one.direction == "maximize" else 0.0
                columns.append((column - best) / (worst - best))
            elif one.metric in self.least:
                least = self.least[one.metric]
                columns.append(np.log10(np.maximum(column, least) / least) / log10(worst / least))
            else:
                columns.append(np.log10(np.maximum(column, 1.0)) / log10(max(worst, 10.0)))
        return np.stack(columns, axis=-1)

    def front(self, values: FloatArray) -> FloatArray:
        """Return the non-dominated of values [rows, objectives] as shares, lower is better; none from outside."""
        boxed = self.of(values)
        inside = boxed[(boxed < 1).all(axis=1)]
        return inside[non_dominated(inside, ["minimize"] * inside.shape[1])] if len(inside) else inside


def least_known(
    objectives: Sequence[Objective], worst: Mapping[str, float], seen: Mapping[str, float], options: Sequence[Option]
) -> dict[str, float]:
    """Return where the axis of each cost begins, by metric: a decade below the least that is known of any candidate.

    Nothing that is proposed is far below that, and what is seen then differs, whatever the unit. A candidate may have
    one parameter, so counts begin there.
    """
    found = {}
    for one in objectives:
        if not METRICS[one.metric].on_split and METRICS[one.metric].unit != "parameters":
            known = [option.costs[one.metric] for option in options if one.metric in option.costs]
            known = [value for value in known if value > 0] + ([seen[one.metric]] if one.metric in seen else [])
            found[one.metric] = min([worst[one.metric], *known]) / 10.0
    return found


def expected_gains(
    box: Box, options: Sequence[Option], promised: Mapping[str, FloatArray], front: FloatArray
) -> FloatArray:
    """Return what each option adds to the volume that a front dominates, the mean over its outcomes, shape [options].

    Args:
        box: Where volume is measured.
        options: What could be tried.
        promised: What they may come to, equally likely, shape [outcomes, options], by metric; other objectives are
            taken from their costs.
        front: In the box, shape [members, objectives].
    """
    outcomes_each = len(next(iter(promised.values()), [None]))
    columns = [
        promised[one.metric]
        if one.metric in promised
        else np.broadcast_to([option.costs[one.metric] for option in options], (outcomes_each, len(options)))
        for one in box.objectives
    ]
    boxed = np.minimum(box.of(np.stack(columns, axis=-1)), 1.0)
    gains = added_volume(boxed.reshape(-1, boxed.shape[-1]), front).reshape(outcomes_each, -1)
    return np.asarray(gains.mean(axis=0))


def added_volume(points: FloatArray, front: FloatArray) -> FloatArray:
    """Return what each point alone adds to the volume that a front dominates in the unit box, shape [points].

    Exact for one and two objectives. For three, the mean over slices of the third.

    Args:
        points: Shape [points, objectives], in [0, 1], lower is better.
        front: Shape [members, objectives], non-dominated.
    """
    if points.shape[1] == 1:
        best = front.min() if len(front) else 1.0
        return np.maximum(best - points[:, 0], 0.0)
    if points.shape[1] == 2:
        return _added_area(points, front)
    edges = np.linspace(0.0, 1.0, 17)
    total = np.zeros(len(points))
    for low, high in pairwise(edges):
        below = front[front[:, 2] <= low][:, :2]
        kept = below[non_dominated(below, ["minimize"] * 2)] if len(below) else below
        thick = np.clip(high - np.maximum(points[:, 2], low), 0.0, None)
        total += thick * _added_area(points[:, :2], kept)
    return total


def _added_area(points: FloatArray, front: FloatArray) -> FloatArray:
    """Sum over the steps of the front's staircase what lies between a point and the stair above it."""
    stairs = front[np.lexsort((front[:, 1], front[:, 0]))]
    left = np.concatenate([[0.0], stairs[:, 0]])
    right = np.concatenate([stairs[:, 0], [1.0]])
    top = np.concatenate([[1.0], stairs[:, 1]])
    stair = np.searchsorted(left, np.maximum(points[:, 0], 0.0), side="right") - 1
    above = top[stair] > points[:, 1]  # others add nothing
    widths, heights = np.maximum(points[above, :1], left), top - points[above, 1:]
    np.maximum(np.subtract(right, widths, out=widths), 0.0, out=widths)
    widths *= np.maximum(heights, 0.0, out=heights)
    found = np.zeros(len(points))
    found[above] = widths.sum(axis=1)
    return found
