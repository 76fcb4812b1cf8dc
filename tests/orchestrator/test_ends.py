"""What candidates may come to that were not trained to the end, by what became of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.ends import Ends, cross_validated
from orchestrator.trial import Trial
from tests.orchestrator.made_up import make_score, make_trial

STEPS = (10, 30, 90)


def trial(number: int, *values: dict[str, float]) -> Trial:
    scores = tuple(make_score(one, step) for one, step in zip(values, STEPS, strict=False))
    return replace(make_trial(number), scores=scores)


def course(number: int, end: float, rungs: int = 3) -> Trial:
    """A candidate whose loss tells its end from the first rung on, while its accuracy tells nothing before."""
    early = {"accuracy": 0.3, "nll": 2.0 - end}
    return trial(number, *[early, {"accuracy": 0.4, "nll": 1.5 - end}, {"accuracy": end, "nll": 1.0 - end}][:rungs])


def test_who_was_trained_to_the_end_comes_to_what_it_came_to() -> None:
    ended = [course(number, end) for number, end in enumerate((0.6, 0.995, 0.8))]
    found = Ends("accuracy", [*ended, course(3, 0.7, rungs=1)]).outcomes(seed=0)
    assert found.shape == (64, 4)
    assert (found[:, :3] == [0.6, 0.995, 0.8]).all()


@pytest.mark.parametrize("rungs", [1, 2])
def test_the_loss_at_a_rung_tells_the_accuracy_at_the_end(rungs: int) -> None:
    ended = [course(number, end) for number, end in enumerate(np.linspace(0.5, 0.9, 20))]
    asked = [course(20 + at, end, rungs) for at, end in enumerate((0.55, 0.7, 0.85))]
    found = Ends("accuracy", [*ended, *asked]).outcomes(seed=0)[:, 20:]
    assert found.mean(axis=0) == pytest.approx([0.55, 0.7, 0.85], abs=0.03)


def test_an_error_is_told_by_itself() -> None:
    ended = [
        trial(number, {"nll": 2 * end}, {"nll": 1.5 * end}, {"nll": end})
        for number, end in enumerate([0.2, 0.4, 0.6, 0.8])
    ]
    found = Ends("nll", [*ended, trial(4, {"nll": 1.0})]).outcomes(seed=0)[:, 4]
    assert found.mean() == pytest.approx(0.5, abs=0.12)
    assert (found > 0).all()


def test_where_not_every_rung_has_the_loss_the_accuracy_tells() -> None:
    ends = np.linspace(0.5, 0.9, 12)
    ended = [trial(at, *({"accuracy": end - gain} for gain in (0.2, 0.1, 0.0))) for at, end in enumerate(ends)]
    asked = [trial(12, {"accuracy": 0.35, "nll": 0.1}), trial(13, {"accuracy": 0.65})]
    found = Ends("accuracy", [*ended, *asked]).outcomes(seed=0)[:, 12:].mean(axis=0)
    assert found == pytest.approx([0.55, 0.85], abs=0.04)


def test_before_three_were_trained_to_the_end_it_gains_what_they_gained_give_or_take() -> None:
    one = trial(0, {"accuracy": 0.5}, {"accuracy": 0.6}, {"accuracy": 0.8})
    found = Ends("accuracy", [one, trial(1, {"accuracy": 0.5})]).outcomes(seed=0)[:, 1]
    assert np.median(found) == pytest.approx(0.8, abs=0.01)
    assert found.std() > 0.05
    alone = Ends("accuracy", [trial(0, {"accuracy": 0.5})]).outcomes(seed=0)[:, 0]
    assert np.median(alone) == pytest.approx(0.5, abs=0.01)


def test_what_training_does_not_change_is_as_it_was_measured_first() -> None:
    one = trial(0, {"latency_ms": 3.0, "accuracy": 0.5}, {"accuracy": 0.6})
    assert (Ends("latency_ms", [one]).outcomes(seed=0) == 3.0).all()


def test_what_nothing_tells_is_not_a_number() -> None:
    ended = [
        trial(at, {"accuracy": 0.5}, {"accuracy": 0.6}, {"accuracy": 0.7, "training_seconds": 2.0}) for at in range(4)
    ]
    found = Ends("training_seconds", [*ended, trial(4, {"accuracy": 0.5})]).outcomes(seed=0)
    assert np.isfinite(found[:, :4]).all()
    assert np.isnan(found[:, 4]).all()


def test_who_got_to_the_end_was_chosen_and_does_not_promise_too_much() -> None:
    """Only the best half of each rung went on: what is asked of the worst is not what the best gained."""
    draw = np.random.default_rng(0)
    ends, trials = draw.uniform(0.5, 0.9, 60), []
    for at, end in enumerate(ends):
        noisy = end + draw.normal(0, 0.05)
        rungs = 3 if noisy > 0.7 else 2 if noisy > 0.6 else 1
        trials.append(course(at, end, rungs))
    found = Ends("accuracy", trials).outcomes(seed=0).mean(axis=0)
    stopped = [at for at, one in enumerate(trials) if len(one.scores) == 1]
    assert found[stopped].mean() < min(one.scores[-1]["accuracy"] for one in trials if len(one.scores) == 3) + 0.05


def test_what_an_isotonic_regression_says_has_the_errors_of_others() -> None:
    before, draws = np.linspace(0.0, 1.0, 40), np.random.RandomState(0)
    noise = 0.05 * np.where(np.arange(40) % 2, 1.0, -1.0)
    asked = np.tile([0.2, 0.8], (64, 1))
    found = cross_validated(before, 3.0 * before + noise, asked, draws)
    assert found.shape == asked.shape
    assert np.allclose(found.mean(axis=0), [0.6, 2.4], atol=0.05)
    assert np.all((found.std(axis=0) > 0.02) & (found.std(axis=0) < 0.15))


def test_nine_of_ten_outcomes_hold() -> None:
    draw, held = np.random.RandomState(0), []
    for seed in range(40):
        before = draw.uniform(0, 1, 30)
        after = before**2 + draw.normal(0, 0.1, 30)
        found = cross_validated(before[:-1], after[:-1], np.tile(before[-1:], (64, 1)), np.random.RandomState(seed))
        low, high = np.quantile(found, [0.05, 0.95])
        held.append(low <= after[-1] <= high)
    assert 0.75 <= np.mean(held) <= 1.0


def test_the_same_seed_draws_the_same() -> None:
    trials = [*(course(number, end) for number, end in enumerate((0.6, 0.7, 0.8, 0.9))), course(4, 0.75, rungs=1)]
    first, again, other = (Ends("accuracy", trials).outcomes(seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
