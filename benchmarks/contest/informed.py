"""What bounds a search that learns from what it tried: one that knows before it begins how others end.

Of all others it is more than a search can have seen before a candidate is its last: what that takes is not to be told
from a candidate's numbers, however many others were trained. Of a few others it is what a search would know that had
trained them for nothing. A forest like the product's is fitted to what is known and to what was tried since, never to
the candidate itself; candidates are tried in the order of what they are expected to add to what was trained by then,
and stopped early by the product's rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np

from benchmarks.contest.arena import Arena, Finished, Search
from evaluators.tabulated import Row
from orchestrator.dominance import FloatArray
from orchestrator.rungs import rungs_of
from orchestrator.samplers.forest import Box, Option, expected_gains, outcomes
from orchestrator.scales import scale_of
from orchestrator.spec import EarlyStopping, Objective
from orchestrator.trees import Columns, fitted

_TREES = 64


def informed(rungs: int, objectives: Sequence[Mapping[str, str]], known: int | None = None) -> Search:
    """Return that search: for the front of accuracy over parameters, or for the best accuracy alone.

    Args:
        rungs: Of its early stopping.
        objectives: What it searches for.
        known: Candidates, drawn at random, whose ends it knows; of all when None.
    """
    looks = [Objective.model_validate(one) for one in objectives]

    def run(arena: Arena, steps: int, seed: int) -> list[Finished]:
        rows = [row for row in arena.rows if not row.cause]
        layers = arena.space.anatomy.n_layers
        options = [Option.of(row.candidate, layers, {"trainable_params": row.cost.trainable_params}) for row in rows]
        told = _Told(options, arena.values(rows)[:, 0], seed, len(looks), known)
        box = Box(looks, {"accuracy": 1.0 / arena.classes, "trainable_params": float(arena.limit)}, {})
        stopping = rungs_of(EarlyStopping(rungs=rungs), looks, arena.full)
        waiting, found, spent = list(range(len(rows))), list[Finished](), 0
        while waiting and spent < steps:
            front = box.front(_reached(arena, [one.row for one in found])[:, : len(looks)])
            some = [options[at] for at in waiting]
            gains = expected_gains(box, some, {"accuracy": told.promised(waiting)}, front)
            at, before, passed = waiting.pop(int(np.argmax(gains))), 0, list[float]()
            for rung, step in enumerate(stopping.steps):
                spent, before = spent + step - before, step
                score = arena.table.score(rows[at], rung, "validation")
                passed.append(score["accuracy"])
                goes_on = stopping.goes_on(at, score)
                if score.full and spent <= steps:
                    found.append(Finished(spent, rows[at]))
                if not goes_on:
                    break
            told.tried(at, passed, len(stopping.steps))
        return found

    return run


class _Told:
    """What is known of candidates, and what a forest makes of it for those that wait.

    Args:
        options: All candidates.
        accuracy: What they end with, shape [options].
        seed: Of the forests, and of whose ends are known.
        objectives: How many there are.
        known: How many ends are known; all when None.
    """

    def __init__(
        self, options: Sequence[Option], accuracy: FloatArray, seed: int, objectives: int, known: int | None
    ) -> None:
        numbers = [one.numbers for one in options]
        self._columns = Columns(numbers).matrix(numbers)
        self._accuracy, self._seed, self._objectives = accuracy, seed, objectives
        everyone = range(len(options))
        self._known = set(everyone if known is None else Random(seed).sample(everyone, min(known, len(options))))
        self._passed: dict[int, list[float]] = {}
        self._rungs = 0
        self._kept: dict[int, FloatArray] = {}

    def tried(self, at: int, passed: list[float], rungs: int) -> None:
        """Take note of the accuracies that a candidate had at the rungs that it reached."""
        self._passed[at], self._rungs = passed, rungs
        if len(self._known) < len(self._accuracy):
            self._kept.clear()

    def promised(self, waiting: Sequence[int]) -> FloatArray:
        """Return the accuracies that candidates may come to, shape [outcomes, waiting]."""
        ends = {at: self._accuracy[at] for at in self._known} | self._came_to()
        strangers = [at for at in waiting if at not in ends and at not in self._kept]
        if strangers:
            drawn = self._outcomes(strangers, ends, len(self._passed))
            self._kept |= {at: drawn[:, place] for place, at in enumerate(strangers)}
        for at in (one for one in waiting if one not in self._kept):
            others = {one: end for one, end in ends.items() if one != at}
            self._kept[at] = self._outcomes([at], others, self._seed * len(self._accuracy) + at)[:, 0]
        return np.stack([self._kept[at] for at in waiting], axis=1)

    def _came_to(self) -> dict[int, float]:
        """Return where those that were tried ended, or would have with the mean gain of those that did."""
        ended = [one for one in self._passed.values() if len(one) == self._rungs]
        gains = [
            float(np.mean([one[-1] - one[rung] for one in ended])) if ended else 0.0 for rung in range(self._rungs)
        ]
        return {at: one[-1] + gains[len(one) - 1] for at, one in self._passed.items()}

    def _outcomes(self, asked: Sequence[int], ends: Mapping[int, float], seed: int) -> FloatArray:
        others = sorted(ends)
        values = np.array([ends[at] for at in others])
        scale = scale_of(values, self._objectives)
        trees = fitted(self._columns[others], scale.of(values), seed, _TREES)
        return scale.back(outcomes(trees, self._columns[asked], self._seed))


def _reached(arena: Arena, rows: Sequence[Row]) -> FloatArray:
    """Return accuracy and trainable parameters of rows, shape [rows, 2]."""
    sizes = np.array([row.cost.trainable_params for row in rows], dtype=np.float64)
    return np.column_stack([arena.values(rows)[:, 0], sizes])
