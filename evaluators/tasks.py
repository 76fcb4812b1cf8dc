"""Several tasks on one backbone: whose the columns of the logits are, and metrics of each task with their mean.

A study of several tasks has one head whose outputs are the classes of all tasks, one task after another. An example is
answered by the columns of its own task alone: where logits are kept the others are `-inf`, which `calibration` calls
outside the answer set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class TaskColumns:
    """One of several tasks.

    Attributes:
        name: What it is called.
        start: Its first class among those of all tasks.
        stop: Where its classes end.
    """

    name: str
    start: int
    stop: int

    def rows(self, labels: Labels) -> NDArray[np.bool_]:
        """Return which examples are of this task, by their labels among the classes of all tasks."""
        return np.asarray((labels >= self.start) & (labels < self.stop))

    def own_groups(self, groups: Labels | None, labels: Labels) -> Labels | None:
        """Return the groups of this task's examples; None where there are none."""
        return None if groups is None else groups[self.rows(labels)]

    def own(self, array: Floats, labels: Labels) -> Floats:
        """Return this task's part of an array of shape [examples, classes of all tasks]."""
        return array[self.rows(labels), self.start : self.stop]

    def own_labels(self, labels: Labels) -> Labels:
        """Return the labels of this task's examples, among its own classes."""
        return labels[self.rows(labels)] - self.start


def by_task(
    tasks: Sequence[TaskColumns],
    measure: Callable[..., dict[str, float]],
    labels: Labels,
    *arrays: Floats,
    groups: Labels | None = None,
) -> dict[str, float]:
    """Return what is measured of each task as `metric/task`, and the mean over the tasks as `metric`.

    Args:
        tasks: The tasks; none where there is one only, which is then measured as it is.
        measure: Takes the arrays and the labels, and `groups` where there are any.
        labels: Class indices, shape [examples].
        arrays: Each of shape [examples, classes].
        groups: Numbers of what examples stay together with, shape [examples]; None where they do not.
    """
    if not tasks:
        return measure(*arrays, labels, **({} if groups is None else {"groups": groups}))
    each = {}
    for one in tasks:
        together = {} if groups is None else {"groups": one.own_groups(groups, labels)}
        each[one.name] = measure(*(one.own(array, labels) for array in arrays), one.own_labels(labels), **together)
    return averaged(each)


def averaged(each: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return metrics of several tasks as `metric/task`, and their unweighted mean as `metric`."""
    names = list(next(iter(each.values())))
    means = {name: float(np.mean([values[name] for values in each.values()])) for name in names}
    return means | {f"{name}/{task}": values[name] for name in names for task, values in each.items()}


def joined(tasks: Sequence[TaskColumns], labels: Labels, each: Sequence[Floats]) -> Floats:
    """Return each task's own part in one array of shape [examples, classes of all tasks], `-inf` elsewhere."""
    whole = np.full((len(labels), tasks[-1].stop), -np.inf)
    for one, own in zip(tasks, each, strict=True):
        whole[one.rows(labels), one.start : one.stop] = own
    return whole
