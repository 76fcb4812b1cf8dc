"""Early stopping: the best share of those that reached a rung goes on, over several objectives, at once."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.score import Score
from orchestrator.halving import Halving
from orchestrator.spec import EarlyStopping, Objective

ACCURACY = Objective(metric="accuracy", direction="maximize")
SIZE = Objective(metric="trainable_params", direction="minimize")


def halving(*objectives: Objective, full: int = 90, **given: object) -> Halving:
    return Halving(EarlyStopping.model_validate({"grace": 1, **given}), objectives or (ACCURACY,), full)


def score(accuracy: float, step: int = 10, size: float = 1.0) -> Score:
    return Score({"accuracy": accuracy, "trainable_params": size}, step, step / 90, "validation", 0)


def with_loss(accuracy: float, loss: float, size: float = 1.0) -> Score:
    one = score(accuracy, size=size)
    return replace(one, values={**one.values, "calibrated_nll": loss})


def test_the_first_of_a_rung_go_on_by_grace() -> None:
    one = halving(grace=3)
    assert [one.goes_on(number, score(0.9 - number / 10)) for number in range(4)] == [True, True, True, False]


def test_the_best_third_goes_on() -> None:
    one = halving(eta=3.0)
    for number in range(8):
        one.record(number, score(number / 10))
    assert one.goes_on(8, score(0.55)) is True
    assert one.goes_on(9, score(0.35)) is False
    assert one.goes_on(10, score(0.9)) is True


def test_a_candidate_is_not_stopped_while_its_interval_reaches_the_cut() -> None:
    """Eight passed with accuracies up to 0.7; three of nine go on, so that 0.5 is the cut."""
    one = halving(eta=3.0)
    for number in range(8):
        one.record(number, score(number / 10))
    near, far = score(0.45), score(0.3)
    assert not one.goes_on(8, near)
    assert one.goes_on(8, replace(near, errors={"accuracy": 0.1}))
    assert not one.goes_on(8, replace(near, errors={"accuracy": 0.03}))
    assert not one.goes_on(9, replace(far, errors={"accuracy": 0.1}))
    assert one.goes_on(10, replace(score(0.9), errors={"accuracy": 0.5})), "nobody is stopped for a bad end"


def test_an_interval_counts_on_the_better_side_of_each_objective() -> None:
    """Where less is better the good end is below, and an objective without an error stays as it is."""
    loss = Objective(metric="calibrated_nll", direction="minimize")
    one = halving(loss, SIZE, eta=2.0)

    def at_first_rung(value: float, error: float = 0.0) -> Score:
        values = {"calibrated_nll": value, "trainable_params": 1.0}
        step = one.steps[0]
        return Score(values, step, step / 90, "validation", 0, {"calibrated_nll": error} if error else {})

    for number in range(4):
        one.record(number, at_first_rung(0.5 + number / 100))
    assert not one.goes_on(4, at_first_rung(0.6))
    assert not one.goes_on(4, at_first_rung(0.6, error=0.05))
    assert one.goes_on(4, at_first_rung(0.6, error=0.07))


def test_a_rung_looks_at_the_loss_in_place_of_accuracy() -> None:
    """Nobody is better than guessing yet; the loss tells who is on the way."""
    one = halving(eta=3.0)
    for number in range(8):
        one.record(number, with_loss(0.3, 1.5 - number / 100))
    assert one.goes_on(8, with_loss(0.3, 1.42))
    assert not one.goes_on(9, with_loss(0.35, 1.49))


def test_where_one_has_no_loss_accuracy_is_looked_at() -> None:
    one = halving(eta=3.0)
    one.record(0, score(0.9))
    for number in range(1, 8):
        one.record(number, with_loss(0.3, 1.5))
    assert not one.goes_on(8, with_loss(0.2, 0.1))
    assert one.goes_on(9, with_loss(0.4, 2.0))


def test_what_nobody_dominates_goes_on_however_many_these_are() -> None:
    """Ten candidates that trade size against loss: each is on the front of the rung, and a third would be four."""
    one = halving(ACCURACY, SIZE, eta=3.0)
    for number in range(10):
        assert one.goes_on(number, with_loss(0.3, 1.5 - number / 100, size=10.0**number))
    assert not one.goes_on(10, with_loss(0.3, 1.495, size=1e9)), "larger and worse than most"


def test_what_is_not_known_cannot_be_dominated() -> None:
    energy = Objective(metric="training_joules", direction="minimize")
    one = halving(ACCURACY, energy, eta=3.0)
    for number in range(8):
        one.record(number, with_loss(0.3, 1.0))
    assert one.goes_on(8, with_loss(0.1, 2.0))
    told = with_loss(0.3, 1.0)
    for number in range(20, 28):
        one.record(number, replace(told, values={**told.values, "training_joules": 5.0}))
    assert not one.goes_on(9, replace(told, values={**told.values, "calibrated_nll": 2.0, "training_joules": 6.0}))
    assert one.goes_on(10, with_loss(0.1, 2.0))


def test_the_loss_of_a_task_stands_for_the_accuracy_on_it() -> None:
    one = halving(Objective(metric="accuracy/trec", direction="maximize"), eta=3.0)
    step = one.steps[0]
    for number in range(8):
        values = {"accuracy/trec": 0.3, "calibrated_nll/trec": 1.5 - number / 100}
        assert one.goes_on(number, Score(values, step, step / 90, "validation", 0)), "each is better than those before"
    values = {"accuracy/trec": 0.3, "calibrated_nll/trec": 1.6}
    assert not one.goes_on(8, Score(values, step, step / 90, "validation", 0))


def test_nobody_goes_on_after_the_last_rung() -> None:
    one = halving(grace=5)
    assert not one.goes_on(0, score(0.9, step=90))


def test_one_rung_trains_everybody_to_the_end() -> None:
    one = halving(rungs=1)
    assert one.steps == (90,)
    assert not one.goes_on(0, score(0.1, step=90))


def test_a_shorter_training_is_compared_at_the_same_share_of_it() -> None:
    one = halving(grace=1)
    for number in range(3):
        one.record(number, score(0.8))
    half = Score({"accuracy": 0.7, "trainable_params": 1.0}, 5, 10 / 90, "validation", 0)
    assert one.goes_on(3, half) is False
    assert one.goes_on(4, replace(half, values={"accuracy": 0.9, "trainable_params": 1.0})) is True
    assert one.goes_on(4, replace(half, step=45, fidelity=1.0)) is False, "it is at its end"


def test_a_step_between_rungs_decides_nothing() -> None:
    one = halving(grace=1)
    for number in range(5):
        one.record(number, score(0.9))
    assert one.goes_on(9, score(0.1, step=11))


def test_who_is_not_dominated_goes_on_whatever_the_order() -> None:
    """Five candidates on a front, each small for its accuracy, and many behind them."""
    one = halving(ACCURACY, SIZE, eta=2.0)
    for number in range(12):
        one.record(number, score(0.2 + number / 100, one.steps[0], size=10.0 + number))
    assert one.goes_on(20, score(0.9, one.steps[0], size=100.0))
    assert one.goes_on(21, score(0.3, one.steps[0], size=0.1))
    assert not one.goes_on(22, score(0.1, one.steps[0], size=200.0))


def test_what_a_resumed_study_records_counts() -> None:
    fresh, resumed = halving(), halving()
    for number in range(9):
        fresh.goes_on(number, score(number / 10))
        resumed.record(number, score(number / 10))
    for accuracy in (0.05, 0.5, 0.85):
        assert fresh.goes_on(20, score(accuracy)) == resumed.goes_on(20, score(accuracy))


def test_the_same_trial_again_counts_once() -> None:
    one = halving(eta=2.0)
    for _ in range(10):
        one.record(0, score(0.9, one.steps[0]))
    assert one.goes_on(1, score(0.1, one.steps[0])) is False
    assert one.goes_on(0, score(0.9, one.steps[0])) is True


@given(st.floats(1.5, 8), st.integers(10, 60), st.integers(0, 100))
def test_about_one_in_eta_goes_on(eta: float, count: int, seed: int) -> None:
    one, random = halving(eta=eta), Random(seed)
    values = [random.random() for _ in range(count)]
    for number, value in enumerate(values):
        one.record(number, score(value, one.steps[0]))
    again = [one.goes_on(number, score(value, one.steps[0])) for number, value in enumerate(values)]
    assert count / eta <= sum(again) <= count / eta + 1
    kept = [value for value, on in zip(values, again, strict=True) if on]
    assert sorted(kept) == sorted(values)[-len(kept) :]


@pytest.mark.parametrize("eta", [2.0, 3.0])
def test_good_candidates_are_rarely_lost(eta: float) -> None:
    """Noise of a hundredth at the first rung, two hundred candidates in random order: the best ten come through."""
    random = Random(0)
    quality = [random.random() for _ in range(200)]
    one = halving(eta=eta)
    through = [n for n in range(200) if one.goes_on(n, score(quality[n] + random.gauss(0, 0.01), one.steps[0]))]
    assert set(sorted(range(200), key=lambda n: -quality[n])[:10]) <= set(through)
