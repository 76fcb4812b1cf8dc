"""Early stopping: a candidate stops where those trained to the end show that it would be dominated there, too."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.score import Score
from orchestrator.early_stopping import rungs_of
from orchestrator.freeze_thaw import FreezeThaw
from orchestrator.halving import Halving
from orchestrator.reach import Reach
from orchestrator.spec import EarlyStopping, Objective, parse
from tests.orchestrator.in_process import spec_of

ACCURACY = Objective(metric="accuracy", direction="maximize")
SIZE = Objective(metric="trainable_params", direction="minimize")
FULL = 90


def rungs(*objectives: Objective, **given: object) -> Reach:
    return Reach(EarlyStopping.model_validate({"grace": 1, **given}), objectives or (ACCURACY,), FULL)


def score(accuracy: float, step: int = 10, size: float = 1.0) -> Score:
    return Score({"accuracy": accuracy, "trainable_params": size}, step, step / FULL, "validation", 0)


def ended(
    one: Reach, *courses: tuple[float, float], size: float = 1.0, first: int = 100, feasible: bool = True
) -> None:
    """Note trials that were trained to the end: their accuracy at the first rung and at the end."""
    for number, (early, late) in enumerate(courses, first):
        one.record(number, score(early, size=size))
        one.record(number, score(late, FULL, size), feasible=feasible)


def test_a_study_file_chooses_the_rule() -> None:
    rules: list[dict[str, Any]] = [{}, {"rule": "reach"}, {"rule": "halving"}]
    specs = [spec_of(search={"sampler": "forest", "early_stopping": one}) for one in rules]
    assert [type(rungs_of(one, FULL)) for one in specs] == [FreezeThaw, Reach, Halving]


@pytest.mark.parametrize(
    ("sampler", "objectives"), [("tpe", ["accuracy", "trainable_params"]), ("forest", ["accuracy"])]
)
def test_candidates_pause_for_fronts_and_the_forest_alone(sampler: str, objectives: list[str]) -> None:
    data = {**spec_of().to_json(), "search": {"sampler": sampler}}
    data["objectives"] = [one for one in data["objectives"] if set(one.values()) & set(objectives)]
    spec = parse(data)
    assert spec.search.early_stopping.rule == "freeze_thaw"
    assert type(rungs_of(spec, FULL)) is Reach
    assert (spec.pauses, spec.startup_trials) == (False, 5)


def test_nobody_is_stopped_before_some_were_trained_to_the_end() -> None:
    one = rungs(grace=3)
    ended(one, (0.8, 0.9), (0.8, 0.9))
    assert one.goes_on(0, score(0.1))
    ended(one, (0.8, 0.9), first=200)
    assert not one.goes_on(1, score(0.1))


def test_what_is_out_of_reach_stops() -> None:
    """The best has 0.9 and gained 0.2: at least 0.7 is asked for, however many others there are."""
    one = rungs()
    ended(one, (0.7, 0.9))
    assert [one.goes_on(number, score(value)) for number, value in enumerate((0.69, 0.7, 0.71, 0.95))] == [
        False,
        True,
        True,
        True,
    ]


def test_a_slow_start_goes_on_where_others_gained_what_it_takes() -> None:
    one = rungs()
    ended(one, (0.85, 0.9), (0.8, 0.9))
    assert not one.goes_on(0, score(0.5))
    ended(one, (0.4, 0.88), (0.45, 0.87), first=200)
    assert one.goes_on(1, score(0.5))


@pytest.mark.parametrize(("chance", "goes_on"), [(0.5, False), (0.2, False), (0.05, True)])
def test_the_chance_says_how_rare_a_gain_may_be(chance: float, goes_on: bool) -> None:
    """Of eleven that were trained to the end one gained 0.5, the others 0.1."""
    one = rungs(chance=chance)
    ended(one, *[(0.8, 0.9)] * 10, (0.2, 0.7))
    assert one.goes_on(0, score(0.65)) is goes_on


def test_what_would_be_equal_to_the_best_goes_on() -> None:
    one = rungs(ACCURACY, SIZE)
    ended(one, (0.5, 0.75), size=4.0)
    assert one.goes_on(0, score(0.5, size=4.0))
    assert not one.goes_on(1, score(0.5, size=5.0))


def test_over_several_objectives_what_would_not_be_dominated_goes_on() -> None:
    one = rungs(ACCURACY, SIZE)
    ended(one, (0.5, 0.9), size=100.0)
    ended(one, (0.3, 0.7), size=10.0, first=200)
    assert one.goes_on(0, score(0.1, size=9.0)), "smaller than all"
    assert one.goes_on(1, score(0.35, size=50.0)), "0.82 would fill a gap"
    assert not one.goes_on(2, score(0.15, size=50.0)), "0.6 is less than the smaller one has"
    assert not one.goes_on(3, score(0.35, size=200.0))


def test_over_several_objectives_gains_are_counted_in_log_odds() -> None:
    """From 0.8 to 0.9 the odds grow to 2.25 times as much, as they do from 0.4 to 0.6, from 0.79 to 0.894."""
    front, alone = rungs(ACCURACY, SIZE), rungs(ACCURACY)
    for one in (front, alone):
        ended(one, (0.8, 0.9), size=100.0)
        ended(one, (0.4, 0.6), size=10.0, first=200)
    assert front.goes_on(0, score(0.41, size=50.0))
    assert not front.goes_on(1, score(0.39, size=50.0))
    assert front.goes_on(2, score(0.81, size=200.0))
    assert not front.goes_on(3, score(0.79, size=200.0))
    assert alone.goes_on(4, score(0.79)), "it may gain 0.19, which is nearly what one of two did"


def test_less_is_better_where_the_objective_says_so() -> None:
    loss = Objective(metric="calibrated_nll", direction="minimize")
    one = rungs(loss)

    def at(value: float, step: int = 10) -> Score:
        return Score({"calibrated_nll": value}, step, step / FULL, "validation", 0)

    one.record(100, at(1.0))
    one.record(100, at(0.4, FULL))
    assert one.goes_on(0, at(0.99))
    assert not one.goes_on(1, at(1.01))


def test_an_interval_counts_on_the_better_side() -> None:
    one = rungs()
    ended(one, (0.7, 0.9))
    low = score(0.6)
    assert not one.goes_on(0, low)
    assert not one.goes_on(1, replace(low, errors={"accuracy": 0.07}))
    assert one.goes_on(2, replace(low, errors={"accuracy": 0.08}))
    assert one.goes_on(3, replace(score(0.8), errors={"accuracy": 0.5})), "nobody is stopped for a bad end"


def test_one_that_broke_a_budget_tells_of_gains_and_is_nobody_to_beat() -> None:
    one = rungs()
    ended(one, (0.5, 0.95), feasible=False)
    assert one.goes_on(0, score(0.1))
    ended(one, (0.7, 0.9), first=200)
    assert one.goes_on(1, score(0.5)), "it may gain 0.45, or nearly"
    assert not one.goes_on(2, score(0.4))


def test_being_over_a_budget_at_a_rung_is_not_the_last_word() -> None:
    """What is measured at the end only is not known before."""
    one = rungs()
    one.record(100, score(0.7), feasible=False)
    one.record(100, score(0.9, FULL), feasible=True)
    assert not one.goes_on(0, score(0.3))


def test_each_rung_has_gains_of_its_own() -> None:
    one = rungs()
    for number in (100, 101):
        one.record(number, score(0.3, 10))
        one.record(number, score(0.85, 30))
        one.record(number, score(0.9, FULL))
    assert one.goes_on(0, score(0.4, 10))
    assert not one.goes_on(0, score(0.8, 30))


def test_nobody_goes_on_after_the_last_rung() -> None:
    one = rungs(grace=5)
    assert not one.goes_on(0, score(0.9, FULL))


def test_one_rung_trains_everybody_to_the_end() -> None:
    one = rungs(rungs=1)
    assert one.steps == (FULL,)
    assert not one.goes_on(0, score(0.1, FULL))


def test_a_shorter_training_is_compared_at_the_same_share_of_it() -> None:
    one = rungs()
    ended(one, (0.7, 0.9))
    half = Score({"accuracy": 0.6, "trainable_params": 1.0}, 5, 10 / FULL, "validation", 0)
    assert not one.goes_on(3, half)
    assert one.goes_on(4, replace(half, values={"accuracy": 0.8, "trainable_params": 1.0}))
    assert not one.goes_on(4, replace(half, step=45, fidelity=1.0)), "it is at its end"


def test_a_step_between_rungs_decides_nothing() -> None:
    one = rungs()
    ended(one, (0.9, 0.9))
    assert one.goes_on(9, score(0.1, step=11))


def test_what_is_not_known_cannot_be_dominated() -> None:
    """The energy is not known at a rung: a candidate of little accuracy may be the one that takes least."""
    energy = Objective(metric="training_joules", direction="minimize")
    one = rungs(ACCURACY, energy)
    for number in (100, 101):
        one.record(number, score(0.7))
        one.record(number, replace(score(0.9, FULL), values={"accuracy": 0.9, "training_joules": 5.0}))
    assert one.goes_on(9, score(0.05))


def test_those_who_know_less_at_a_rung_are_nobody_to_compare_with() -> None:
    """Latency was measured at the end only when the first of a resumed study ended."""
    latency = Objective(metric="latency_ms", direction="minimize")
    one = rungs(ACCURACY, latency)

    def at(accuracy: float, milliseconds: float, step: int = 10) -> Score:
        return Score({"accuracy": accuracy, "latency_ms": milliseconds}, step, step / FULL, "validation", 0)

    one.record(100, score(0.7))
    one.record(100, at(0.9, 5.0, FULL))
    assert one.goes_on(1, at(0.1, 6.0))
    one.record(101, at(0.7, 5.0))
    one.record(101, at(0.9, 5.0, FULL))
    assert not one.goes_on(2, at(0.1, 6.0))
    assert one.goes_on(3, at(0.1, 4.0)), "faster than all"


def test_what_a_resumed_study_records_counts() -> None:
    fresh, resumed = rungs(), rungs()
    ended(fresh, (0.7, 0.9), (0.5, 0.8))
    for number in range(9):
        fresh.goes_on(number, score(number / 10))
        resumed.record(number, score(number / 10))
    ended(resumed, (0.7, 0.9), (0.5, 0.8))
    for accuracy in (0.05, 0.55, 0.85):
        assert fresh.goes_on(20, score(accuracy)) == resumed.goes_on(20, score(accuracy))


def test_what_is_trained_again_after_it_had_ended_counts_once() -> None:
    """A driver was killed between the last score of a trial and its end: the next one trains it anew."""
    again, once = rungs(), rungs()
    ended(again, (0.1, 0.9), first=7)
    ended(again, (0.7, 0.9), (0.6, 0.9))
    ended(again, (0.5, 0.8), first=7)
    ended(once, (0.5, 0.8), first=7)
    ended(once, (0.7, 0.9), (0.6, 0.9))
    for at in range(100):
        assert again.goes_on(0, score(at / 100)) == once.goes_on(0, score(at / 100))


_COURSES = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=30)


@given(_COURSES, st.integers(0, 100), st.integers(-50, 50))
def test_where_the_scale_begins_does_not_matter(courses: list[tuple[int, int]], value: int, shift: int) -> None:
    one, shifted = rungs(), rungs()
    ended(one, *courses)
    ended(shifted, *((early + shift, late + shift) for early, late in courses))
    assert one.goes_on(0, score(value)) == shifted.goes_on(0, score(value + shift))


@given(_COURSES, st.integers(0, 100), st.floats(0.01, 0.98))
def test_a_smaller_chance_stops_fewer_and_more_accuracy_stops_nobody(
    courses: list[tuple[int, int]], value: int, chance: float
) -> None:
    strict, mild = rungs(chance=chance + 0.01), rungs(chance=chance)
    for one in (strict, mild):
        ended(one, *courses)
    if strict.goes_on(0, score(value)):
        assert mild.goes_on(0, score(value))
        assert strict.goes_on(1, score(value + 1))


def test_the_best_is_lost_about_as_often_as_the_chance_says_and_most_are_not_trained_to_the_end() -> None:
    """Two hundred in random order, who gain from 0.1 to 0.2, forty times over."""
    kept, trained = 0, 0
    for seed in range(40):
        random = Random(seed)
        early = [random.random() for _ in range(200)]
        late = [one + random.uniform(0.1, 0.2) for one in early]
        one = rungs(grace=3)
        through = set()
        for number in range(200):
            if one.goes_on(number, score(early[number])):
                through.add(number)
                one.record(number, score(late[number], FULL))
        kept += max(range(200), key=lambda n: late[n]) in through
        trained += len(through)
    assert kept >= 33
    assert trained < 40 * 40
