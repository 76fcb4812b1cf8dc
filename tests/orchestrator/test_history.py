"""What trials tell a sampler: read once where they are settled, and the same as if all were read each time."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from random import Random

import numpy as np
import pytest

from evaluators.score import Cost
from orchestrator.growing import Rows
from orchestrator.history import History, Told
from orchestrator.trees import Columns, Numbers
from orchestrator.trial import Trial
from tests.orchestrator.made_up import make_score, make_trial

METRICS = ("accuracy", "latency_ms")


def history(seen: list[int] | None = None) -> History:
    def keeps(trial: Trial) -> bool:
        if seen is not None:
            seen.append(trial.number)
        return trial.scores[-1]["accuracy"] > 0.3

    return History(("accuracy",), METRICS, keeps)


def course(random: Random, number: int) -> list[Trial]:
    """What a trial is from its start to its end; some pause at rungs."""
    steps = (10, 30, 90)[: random.randint(1, 3)]
    scores = tuple(make_score({"accuracy": random.random(), "latency_ms": 1 + random.random()}, at) for at in steps)
    begun = make_trial(number, state="running", cost=Cost(1, 1))
    rungs = [replace(begun, scores=scores[:passed]) for passed in range(1, len(scores) + 1)]
    ended = replace(rungs[-1], state="complete" if scores[-1].full else "partial")
    pauses = random.random() < 0.5
    between = [[replace(one, state="paused"), one] if pauses else [one] for one in rungs]
    return [begun, *(one for some in between for one in some), ended]


def plain(told: Told) -> tuple[object, ...]:
    gains = {metric: {at: _sorted(one) for at, one in found.items()} for metric, found in told.gains.items()}
    return told.learnt, told.running, _sorted(told.reached), gains, told.least


def _sorted(rows: Rows) -> list[list[float]]:
    """Rows in an order of their own: settled trials tell in the order in which they were settled."""
    found: list[list[float]] = rows.values.tolist()
    return sorted(found)


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_is_read_as_trials_come_and_end_is_what_is_read_at_once(at_once: int) -> None:
    random, one, numbers = Random(at_once), history(), count()
    trials: list[Trial] = []
    coming: dict[int, list[Trial]] = {}
    for _ in range(300):
        if len(coming) < at_once:
            number = next(numbers)
            coming[number] = course(random, number)
            trials.append(coming[number].pop(0))
        number = random.choice(list(coming))
        trials[number] = coming[number].pop(0)
        if not coming[number]:
            del coming[number]
        assert plain(one.of(list(trials))) == plain(history().of(list(trials)))
    assert len(trials) > 60


def test_a_settled_trial_is_read_once() -> None:
    seen: list[int] = []
    one = history(seen)
    trials = [make_trial(number, {"accuracy": 0.5}, cost=Cost(1, 1)) for number in range(50)]
    for many in range(1, 51):
        one.of(trials[:many])
    assert seen == list(range(50))


def test_other_trials_are_read_anew() -> None:
    one = history()
    first, second = (
        [make_trial(number, {"accuracy": accuracy}, cost=Cost(1, 1)) for number in range(5)] for accuracy in (0.5, 0.6)
    )
    assert one.of(first).reached.values[:, 0].tolist() == [0.5] * 5
    assert one.of(second).reached.values[:, 0].tolist() == [0.6] * 5
    assert one.of(first[:2]).reached.values[:, 0].tolist() == [0.5] * 2


def test_rows_grow_and_what_was_taken_stays() -> None:
    rows = Rows(2)
    for at in range(40):
        taken = rows.values
        rows.append(at, -at)
        assert len(taken) == at
    apart = rows.copy()
    apart.append(1.0, 1.0)
    assert (len(rows), len(apart)) == (40, 41)
    assert np.array_equal(rows.values, [[at, -at] for at in range(40)])


def test_columns_follow_from_the_names_alone() -> None:
    one = [{"b": 1.0, "a": 2.0}, {}, {"c": 3.0, "a": 0.0}]
    Numbers({"z never asked for": 1.0})
    rows = [Numbers(named) for named in one]
    columns = Columns(rows)
    assert columns.matrix(rows).tolist() == [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    assert columns.matrix([]).shape == (0, 3)
