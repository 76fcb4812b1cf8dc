"""What bounds a search: how soon one is there that knows before it begins how all others end, or what is good on test.

For each candidate a forest like the product's is fitted to all others of the table, trained to their ends: more than a
search can have seen before the candidate is its last. Candidates are tried in the order of what they are expected to
add to what was trained by then, and stopped early by the product's rule. Nobody who learns knows more of the others;
but it is a measure and no strict bound, for another order or another rule for stopping may be sooner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.contest.arena import DIRECTIONS, Arena, Finished, Search
from evaluators.tabulated import Row
from orchestrator.dominance import FloatArray, non_dominated
from orchestrator.expected_volume import Option, expected_gains
from orchestrator.reach import Reach
from orchestrator.samplers.forest import outcomes
from orchestrator.scales import OUTCOMES, scale_of
from orchestrator.spec import EarlyStopping, Objective
from orchestrator.trees import Columns, fitted

_NOTHING = 1e-12
"""A hypervolume that is no more than rounding."""


def informed(rungs: int, objectives: Sequence[Mapping[str, str]]) -> Search:
    """Return that search: for the front of accuracy over parameters, or for the best accuracy alone."""
    looks = [Objective.model_validate(one) for one in objectives]

    def run(arena: Arena, steps: int, seed: int) -> list[Finished]:
        rows = [row for row in arena.rows if not row.cause]
        options, box = arena.options(rows), arena.box(objectives)
        promised = _promised(options, arena.values(rows)[:, 0], seed, len(looks))
        stopping = Reach(EarlyStopping(rungs=rungs), looks, arena.full)
        waiting, found, spent = list(range(len(rows))), list[Finished](), 0
        while waiting and spent < steps:
            front = box.front(_reached(arena, [one.row for one in found])[:, : len(looks)])
            some = [options[at] for at in waiting]
            gains = expected_gains(box, some, {"accuracy": promised[:, waiting]}, front)
            at, before = waiting.pop(int(np.argmax(gains))), 0
            for rung, step in enumerate(stopping.steps):
                spent, before = spent + step - before, step
                score = arena.table.score(rows[at], rung, "validation")
                goes_on = stopping.goes_on(at, score)
                if score.full and spent <= steps:
                    found.append(Finished(spent, rows[at]))
                if not goes_on:
                    break
        return found

    return run


def in_order_of_test(arena: Arena) -> Iterator[Row]:
    """Yield the candidates in the order of what each adds on test to the hypervolume of those before it.

    Nobody can know that order, but all that is worth finding comes early in it. When none adds anything more, the
    rest is put in order in the same way, as if there were nothing before it.
    """
    left, base = [row for row in arena.rows if not row.cause], list[Row]()
    while left:
        before = _volume_on_test(arena, base)
        gains = [_volume_on_test(arena, [*base, row]) - before for row in left]
        at = int(np.argmax(gains))
        if gains[at] <= _NOTHING and base:
            base = []
            continue
        base.append(left.pop(at))
        yield base[-1]


def _volume_on_test(arena: Arena, rows: Sequence[Row]) -> float:
    """Return the hypervolume of the rows that test itself puts on the front."""
    values = arena.values(rows, "test")
    return arena.volume_of(values[non_dominated(values, DIRECTIONS)]) if rows else 0.0


def _promised(options: Sequence[Option], accuracy: FloatArray, seed: int, objectives: int) -> FloatArray:
    """Return the accuracies that each option may come to by what all others came to, shape [outcomes, options]."""
    numbers = [one.numbers for one in options]
    columns = Columns(numbers).matrix(numbers)
    found = []
    for at in range(len(options)):
        others = np.arange(len(options)) != at
        scale = scale_of(accuracy[others], objectives)
        trees = fitted(columns[others], scale.of(accuracy[others]), seed * len(options) + at, OUTCOMES)
        found.append(scale.back(outcomes(trees, columns[at : at + 1], seed)[:, 0]))
    return np.stack(found, axis=1)


def _reached(arena: Arena, rows: Sequence[Row]) -> FloatArray:
    """Return accuracy and trainable parameters of rows, shape [rows, 2]."""
    sizes = np.array([row.cost.trainable_params for row in rows], dtype=np.float64)
    return np.column_stack([arena.values(rows)[:, 0], sizes])
