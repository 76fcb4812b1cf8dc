"""The front, its members, the pick and the reference point, on trials that are made up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluators.score import GAIN, METRICS, Cost
from orchestrator.front import front_of, front_of_study, is_feasible, limits_of, reference_point
from orchestrator.member import Estimate, Member
from orchestrator.pick import choose, format_value
from orchestrator.storage import Storage
from search_space.errors import StudyError
from search_space.notation import parse
from tests.orchestrator.made_up import BACKBONE, CLASSES, make_finalist, make_score, make_spec, make_trial, plausible

LIMITS = {"trainable_params": 1000.0}


def values(accuracy: float, parameters: float = 100.0, **more: float) -> dict[str, float]:
    return {"accuracy": accuracy, "trainable_params": parameters, **more}


def numbers(members) -> list[int]:
    return [member.number for member in members]


def test_members_are_the_non_dominated_from_the_cheapest_on():
    trials = [make_trial(0, values(0.9, 500)), make_trial(1, values(0.8, 100)), make_trial(2, values(0.7, 300))]
    front = front_of(make_spec(), trials, LIMITS)
    assert numbers(front.members) == [1, 0]
    assert front.tags == {0: "front", 1: "front", 2: "dominated"}


def test_what_is_not_complete_feasible_and_whole_is_never_a_member():
    partial = (make_score(values(0.99, 1), step=30),)
    trials = [
        make_trial(0, values(0.5, 900)),
        make_trial(1, None, scores=partial, state="partial"),
        make_trial(2, None, scores=partial),
        make_trial(3, values(0.99, 1001)),
        make_trial(4, values(0.99, 1001), cost=Cost(1001, 0)),
        make_trial(5, None, state="infeasible"),
        make_trial(6, values(0.99, 1), state="failed", cause="diverged"),
        make_trial(7, None, scores=partial, state="running"),
        make_trial(8, None, scores=partial, state="paused"),
    ]
    front = front_of(make_spec(), trials, LIMITS)
    assert front.tags == {
        0: "front", 1: "partial", 2: "partial", 3: "infeasible", 4: "infeasible", 5: "infeasible", 6: "failed",
        7: "running", 8: "paused",
    }  # fmt: skip


def test_a_limit_that_nobody_measured_is_not_kept():
    limits = {"latency_ms": 5.0}
    assert not is_feasible(make_trial(0, values(0.9)), limits)
    assert is_feasible(make_trial(0, values(0.9, latency_ms=5.0)), limits)


def test_predicted_memory_stands_in_where_memory_cannot_be_measured():
    limits = {"peak_memory_bytes": 1e9}
    assert is_feasible(make_trial(0, values(0.9), cost=Cost(100, 0, 10**9)), limits)
    assert not is_feasible(make_trial(0, values(0.9, peak_memory_bytes=2e9), cost=Cost(100, 0, 10**9)), limits)


def test_a_measurement_replaces_the_prediction_of_the_same_metric_and_of_no_other():
    limits = {"peak_memory_bytes": 1000.0, "training_flops": 50.0}
    cost = Cost(100, 0, 1050, training_flops=50)
    measured = values(0.9, peak_memory_bytes=945.0)
    assert is_feasible(make_trial(0, measured, cost=cost), limits)
    assert not is_feasible(make_trial(0, measured, cost=replace(cost, training_flops=51)), limits)
    assert not is_feasible(make_trial(0, values(0.9), cost=cost), limits)


def test_a_repeat_is_not_a_second_member():
    same = parse("lora | lr=0.002")
    trials = [make_trial(number, values(0.9), candidate=same) for number in (3, 1)]
    front = front_of(make_spec(), trials, LIMITS)
    assert numbers(front.members) == [1]
    assert front.tags == {3: "dominated", 1: "front"}


def test_different_candidates_with_equal_values_are_both_members():
    front = front_of(make_spec(), [make_trial(0, values(0.9)), make_trial(1, values(0.9))], {})
    assert numbers(front.members) == [0, 1]
    assert front.pick is not None
    assert front.pick.number == 0


def test_an_empty_study_has_an_empty_front():
    front = front_of(make_spec(), [], LIMITS, [], {"accuracy": 0.1, "trainable_params": 1000.0})
    assert (front.members, front.tags, front.pick, front.hypervolume) == ((), {}, None, 0.0)
    assert front.rows() == []
    json.dumps(front.to_json(), allow_nan=False)


def test_the_hypervolume_is_a_share_of_the_box_to_the_reference_point():
    trials = [make_trial(0, values(0.75, 250))]
    front = front_of(make_spec(), trials, LIMITS, [], {"accuracy": 0.5, "trainable_params": 1000.0})
    assert front.hypervolume == pytest.approx(0.5 * 0.75)
    assert front_of(make_spec(), trials, LIMITS).hypervolume is None


def test_the_history_replays_the_search_in_the_order_in_which_trials_ended():
    late = make_trial(0, values(0.75, 250), finished=datetime(2030, 1, 1))
    trials = [
        late,
        make_trial(1, values(0.6, 500)),
        make_trial(2, None, state="failed"),
        make_trial(3, values(0.55, 600)),
    ]
    reference = {"accuracy": 0.5, "trainable_params": 1000.0}
    early = (make_score(values(0.4, 300), step=30),)
    waiting = make_trial(4, None, scores=early, state="paused")  # whatever its times say, it is not settled
    front = front_of(make_spec(), [*trials, waiting], LIMITS, [], reference)
    assert front.history == ((1, pytest.approx(0.2 * 0.5)), (4, pytest.approx(0.5 * 0.75)))
    assert front.hypervolume == front.history[-1][1]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_the_interval_is_students(sample):
    one = Estimate.of(sample)
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=one.mean, scale=max(stats.sem(sample), 1e-300))
    assert (one.low, one.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_one_seed_has_a_mean_and_no_interval():
    assert Estimate.of([0.7]) == Estimate(0.7, None, None, 1, None)


def bent(**changes):
    """A front with a knee at trial 1."""
    trials = [make_trial(0, values(0.6, 10)), make_trial(1, values(0.88, 100)), make_trial(2, values(0.9, 1000))]
    return front_of(make_spec(**changes), trials, LIMITS)


def test_the_pick_is_the_knee():
    pick = bent().pick
    assert pick.number == 1
    assert pick.reason.startswith("the knee of the front (accuracy 0.8800; trainable_params 100)")
    assert pick.alternatives["best_quality"].number == 2
    assert pick.alternatives["cheapest_within_one_standard_error"].number is None


def test_without_a_knee_and_without_finalists_the_pick_is_the_best():
    trials = [make_trial(0, values(0.6, 10)), make_trial(1, values(0.9, 1000))]
    pick = front_of(make_spec(), trials, LIMITS).pick
    assert pick.number == 1
    assert "no knee" in pick.reason
    assert "needs finalists" in pick.reason


def straight(spread: float):
    """Two candidates 0.01 apart, each on three seeds."""
    trials = [make_trial(0, values(0.89, 10)), make_trial(1, values(0.9, 1000))]
    shifts = (-spread, 0.0, spread)
    finalists = [make_finalist(seed, 0, values(0.89 + shift, 10)) for seed, shift in enumerate(shifts)]
    finalists += [make_finalist(seed, 1, values(0.9 + shift, 1000)) for seed, shift in enumerate(shifts, 3)]
    return front_of(make_spec(), trials, LIMITS, finalists)


def test_without_a_knee_the_pick_is_the_cheapest_within_one_standard_error():
    noisy, quiet = straight(0.05).pick, straight(0.001).pick
    assert (noisy.number, quiet.number) == (0, 1)
    assert (
        "within one standard error (0.029) of the best accuracy, 0.9000 on validation, mean of 3 seeds" in noisy.reason
    )


def test_with_one_objective_the_pick_is_the_best():
    trials = [make_trial(0, values(0.9, 900)), make_trial(1, values(0.8, 10)), make_trial(2, values(0.9, 90))]
    front = front_of(make_spec(objectives=("accuracy",), budgets={"trainable_params": 1000}), trials, LIMITS)
    assert numbers(front.members) == [2, 0]
    assert front.pick.number == 2
    assert front.pick.reason == "the best accuracy, 0.9000 within the budgets"


def test_the_finalists_correct_a_lucky_search():
    trials = [make_trial(0, values(0.95)), make_trial(1, values(0.90))]
    finalists = [make_finalist(n, 0, values(0.85 + n / 1000), values(0.84)) for n in range(3)]
    finalists += [make_finalist(n, 1, values(0.90 + n / 1000), values(0.88)) for n in range(3, 6)]
    front = front_of(make_spec(objectives=("accuracy",)), trials, LIMITS, finalists)
    assert numbers(front.members) == [0]
    assert numbers(front.neighbours) == [1]
    assert front.tags == {0: "front", 1: "dominated"}
    assert front.pick.number == 1
    assert front.members[0].optimism == {"accuracy": pytest.approx(0.11)}
    assert [front.members[0].firm, front.neighbours[0].firm] == [0.0, 1.0]


def test_the_hypervolume_of_what_was_trained_again_has_an_interval():
    trials = [make_trial(0, values(0.95, 500)), make_trial(1, values(0.70, 100)), make_trial(2, values(0.5, 10))]
    finalists = [make_finalist(n, 0, values(0.85 + n / 100, 500), values(0.1)) for n in range(3)]
    finalists += [make_finalist(3, 1, values(0.7, 100))]
    reference = {"accuracy": 0.5, "trainable_params": 1000.0}
    front = front_of(make_spec(), trials, LIMITS, finalists, reference)
    value, low, high = front.confirmed_hypervolume
    # two boxes: what 0.7 has from 100 on, and what 0.86 adds from 500 on
    assert value == pytest.approx((0.2 * 900 + 0.16 * 500) / (0.5 * 1000))
    assert low < value < high < front.hypervolume
    # the third was not trained again
    assert front.searched_hypervolume == pytest.approx((0.2 * 900 + 0.25 * 500) / (0.5 * 1000))
    assert front.to_json()["confirmed_hypervolume"] == {"value": value, "low": low, "high": high}
    without = front_of(make_spec(), trials, LIMITS, finalists[3:], reference)
    assert (without.searched_hypervolume, without.confirmed_hypervolume) == (None, None), "one seed"
    assert front_of(make_spec(), trials, LIMITS, finalists).confirmed_hypervolume is None, "no reference point"


def test_firm_is_from_nine_tenths_on():
    member = Member(make_trial(0, values(0.9)))
    assert [replace(member, firm=one).is_firm for one in (0.9, 0.89, None)] == [True, False, None]
    assert replace(member, firm=0.95).to_json()["is_firm"] is True


def test_optimism_is_positive_where_the_search_flattered():
    trial = make_trial(0, values(0.9, nll=0.30))
    finalist = make_finalist(0, 0, values(0.9, nll=0.35), values(0.9, nll=0.40))
    front = front_of(make_spec(objectives=("nll",)), [trial], {}, [finalist])
    assert front.members[0].optimism == {"accuracy": pytest.approx(0.0), "nll": pytest.approx(0.1)}
    assert front.members[0].firm is None, "one seed"


def test_failed_and_partial_finalists_do_not_count():
    finalists = [
        make_finalist(0, 0, values(0.8)),
        make_finalist(1, 0, values(0.1), state="failed"),
        make_finalist(2, 0, values(0.1), state="running"),
    ]
    front = front_of(make_spec(), [make_trial(0, values(0.9))], {}, finalists)
    assert front.members[0].validation["accuracy"] == Estimate(0.8, None, None, 1, None)


STATES = st.sampled_from(["complete", "complete", "complete", "partial", "failed", "infeasible", "running"])


@st.composite
def studies(draw):
    accuracy, parameters = st.integers(0, 8).map(lambda n: n / 8), st.integers(1, 6).map(lambda n: 300.0 * n)
    trials = [
        make_trial(
            number,
            values(draw(accuracy), draw(parameters)),
            state=draw(STATES),
        )
        for number in range(draw(st.integers(0, 9)))
    ]  # fmt: skip
    origins = draw(st.lists(st.sampled_from(range(len(trials))), max_size=4)) if trials else []
    finalists = [
        make_finalist(number, origin, values(draw(accuracy), draw(parameters)), values(draw(accuracy), 1.0))
        for number, origin in enumerate(origins)
    ]
    return trials, finalists


OBJECTIVES = st.sampled_from([("accuracy",), ("accuracy", "trainable_params"), ("trainable_params", "accuracy")])


@given(studies(), OBJECTIVES)
@settings(max_examples=80)
def test_what_holds_for_every_study(study, objectives):
    trials, finalists = study
    front = front_of(make_spec(objectives=objectives), trials, LIMITS, finalists)
    assert set(front.tags) == {one.number for one in trials}
    assert {number for number, tag in front.tags.items() if tag == "front"} == set(numbers(front.members))
    for member in (*front.members, *front.neighbours):
        assert member.trial.state == "complete"
        assert member.trial.score["trainable_params"] <= 1000
    assert (front.pick is None) == (not front.members)
    if front.pick:
        assert front.pick.number in numbers((*front.members, *front.neighbours))
    assert json.loads(json.dumps(front.to_json(), allow_nan=False)) == front.to_json()
    assert len({tuple(row) for row in front.rows()}) <= 1


@given(studies(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_neither_the_test_split_nor_the_order_of_trials_has_a_say(study, shuffler):
    trials, finalists = study
    front = front_of(make_spec(), trials, LIMITS, finalists)
    blind = [replace(one, test=make_score(values(shuffler.random()), split="test")) for one in finalists]
    shuffler.shuffle(trials)
    again = front_of(make_spec(), trials, LIMITS, blind)
    assert (again.tags, again.pick) == (front.tags, front.pick)
    assert numbers(again.members) == numbers(front.members)


def test_every_metric_has_a_reference_point():
    for name in set(METRICS) - {GAIN}:  # which is no objective
        objectives = (name,) if METRICS[name].on_split else ("accuracy", name)
        task = {"dataset": "builtin:trec", "length_bands": 3}
        spec = make_spec(objectives=objectives, task=task, resources={"concurrency": 1})
        point = reference_point(spec, {}, CLASSES, BACKBONE)
        assert list(point) == list(objectives)
        ideal = 1.0 if METRICS[name].direction == "maximize" else 0.0
        assert point[name] < ideal if ideal else point[name] > ideal


def test_the_reference_point_is_chance_and_the_budget():
    spec = make_spec(objectives=("accuracy", "nll", "trainable_params"))
    point = reference_point(spec, {"trainable_params": 5e4}, 4, BACKBONE, Cost(BACKBONE, 10, 10**9))
    assert point == {"accuracy": 0.25, "nll": pytest.approx(math.log(4)), "trainable_params": 5e4}
    assert reference_point(spec, {}, 4, BACKBONE)["trainable_params"] == BACKBONE
    memory = make_spec(objectives=("accuracy", "peak_memory_bytes"))
    assert reference_point(memory, {}, 4, BACKBONE, Cost(BACKBONE, 10, 10**9))["peak_memory_bytes"] == 1e9


def test_the_front_of_a_study_in_the_storage(tmp_path):
    storage = Storage(f"sqlite:///{tmp_path}/paretune.db")
    store = storage.create(make_spec(budgets={"trainable_params": "1%"}))
    with pytest.raises(StudyError, match="never started"):
        front_of_study(store)
    store.note("backbone", {"parameters": BACKBONE})
    store.note("reference_point", {"accuracy": 1 / 6, "trainable_params": 227_132.0})
    assert limits_of(store) == {"trainable_params": 227_132.0}
    front = front_of_study(store)
    assert (front.members, front.hypervolume) == ((), 0.0)


def test_rows_hold_search_validation_and_test():
    trials, _, finalists = plausible()
    front = front_of(make_spec(), trials, {}, finalists)
    rows = front.rows()
    assert [row["number"] for row in rows] == numbers((*front.members, *front.neighbours))
    assert sum(row["pick"] for row in rows) == 1
    again = next(row for row in rows if row["seeds"] == 3)
    assert again["test_accuracy_low"] < again["test_accuracy_mean"] < again["test_accuracy_high"]
    alone = next(row for row in rows if row["seeds"] == 0)
    assert alone["validation_accuracy_mean"] is None
    assert alone["accuracy"] > 0


def test_nothing_to_choose_from():
    assert choose(make_spec(), []) is None


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.84219, "0.8422"),
        ("trainable_params", 73_728, "73.7k"),
        ("peak_memory_bytes", 3 * 2**29, "1.5 GiB"),
        ("latency_ms", 3.14159, "3.14 ms"),
    ],
)
def test_values_are_written_with_their_units(name, value, text):
    assert format_value(value, METRICS[name]) == text
