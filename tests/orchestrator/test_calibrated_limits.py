"""Calibration as a constraint and as an objective."""

from __future__ import annotations

import numpy as np
import pytest

from evaluators.score import METRICS
from orchestrator.front import front_of, is_feasible, reference_point
from orchestrator.reach import Reach
from orchestrator.spec import EarlyStopping, parse
from search_space.errors import SpecError
from tests.orchestrator.made_up import make_score, make_spec, make_trial
from tests.orchestrator.test_spec import LEAST


def trial(number: int, accuracy: float, calibrated: float | None, **more: float):
    values = {"accuracy": accuracy, "trainable_params": 100.0, "ece": 0.2, **more}
    return make_trial(number, values | ({} if calibrated is None else {"calibrated_ece": calibrated}))


def test_a_limit_on_the_error_after_calibration_is_hard() -> None:
    spec = make_spec(budgets={"ece": 0.05})
    limits = spec.budgets.limits(1000)
    trials = [trial(0, 0.9, 0.06), trial(1, 0.8, 0.05), trial(2, 0.7, 0.01), trial(3, 0.95, None)]
    assert [is_feasible(one, limits) for one in trials] == [False, True, True, False]
    front = front_of(spec, trials, limits)
    assert [member.number for member in front.members] == [1]
    assert front.tags == {0: "infeasible", 1: "front", 2: "dominated", 3: "infeasible"}


def test_a_limit_that_is_never_measured_is_refused_at_once() -> None:
    with pytest.raises(SpecError, match=r"calibration: budgets\.ece limits the error after calibration"):
        make_spec(budgets={"ece": 0.05}, calibration={"method": "none"})
    assert make_spec(calibration={"method": "none"}).budgets.ece is None


def test_the_debiased_error_can_be_searched_on() -> None:
    spec = make_spec(objectives=("accuracy", "debiased_squared_error"))
    trials = [
        trial(0, 0.9, None, debiased_squared_error=0.02),
        trial(1, 0.8, None, debiased_squared_error=-0.001),
        trial(2, 0.7, None, debiased_squared_error=0.0),
    ]
    worst = reference_point(spec, {}, classes=4, backbone_parameters=1000)
    assert worst["debiased_squared_error"] == 0.75
    front = front_of(spec, trials, {}, reference=worst)
    assert {member.number for member in front.members} == {0, 1}
    assert front.hypervolume is not None
    assert 0 < front.hypervolume <= 1
    assert METRICS["debiased_squared_error"].direction == "minimize"


def test_the_debiased_error_can_be_a_limit_as_well() -> None:
    spec = make_spec(budgets={"debiased_squared_error": 0.01})
    limits = spec.budgets.limits(1000)
    trials = [trial(number, 0.9, None, debiased_squared_error=one) for number, one in enumerate((0.02, 0.01, -0.005))]
    assert [is_feasible(one, limits) for one in trials] == [False, True, True]


def test_the_loss_is_the_one_that_calibration_cannot_mend() -> None:
    spec = parse({**LEAST, "objectives": [{"minimize": "loss"}, {"minimize": "trainable_params"}]})
    assert [one.metric for one in spec.objectives] == ["calibrated_nll", "trainable_params"]
    assert parse(spec.to_json()) == spec
    with pytest.raises(SpecError, match="calibrated_nll is better the lower it is"):
        parse({**LEAST, "objectives": [{"maximize": "loss"}]})


def measured(name: str) -> dict[str, float]:
    """What a rung measures of two candidates: a good one that is far too sure, and a dull one that is not."""
    from calibration.spec import CalibrationSpec
    from evaluators.measurement import quality

    random = np.random.default_rng(0)
    truth = 2.0 * random.normal(size=(500, 4))
    labels = (truth + random.gumbel(size=truth.shape)).argmax(axis=1)
    logits = {"sure": 12.0 * truth, "dull": 0.5 * truth + 1.0 * random.normal(size=truth.shape)}
    return {**quality(logits[name], labels, CalibrationSpec()), "trainable_params": 10.0}


@pytest.mark.parametrize(("objective", "preferred"), [("loss", "sure"), ("nll", "dull")])
def test_the_loss_stops_and_picks_by_what_is_left_after_calibration(objective: str, preferred: str) -> None:
    """Raw NLL would drop the better candidate at its rung and recommend the worse one."""
    spec = parse({**LEAST, "objectives": [{"minimize": objective}]})
    values = {name: measured(name) for name in ("sure", "dull")}
    other = "dull" if preferred == "sure" else "sure"
    for ended, then, goes_on in ((preferred, other, False), (other, preferred, True)):
        rungs = Reach(EarlyStopping(eta=2.0, grace=1), spec.objectives, 90)
        rungs.record(0, make_score(values[ended], step=rungs.steps[0]))
        rungs.record(0, make_score(values[ended], step=90))
        assert rungs.goes_on(1, make_score(values[then], step=rungs.steps[0])) is goes_on
    trials = [make_trial(number, values[name]) for number, name in enumerate(("sure", "dull"))]
    front = front_of(spec, trials, {})
    assert front.pick is not None
    assert front.pick.number == ("sure", "dull").index(preferred)
