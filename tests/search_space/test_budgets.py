"""Budgets: limits by metric, shares of the backbone, and how far a candidate is from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search_space.budgets import BudgetSpec, violations


def budgets(**given: object) -> BudgetSpec:
    return BudgetSpec.model_validate(given)


def test_no_limit_is_no_metric() -> None:
    assert budgets().limits(1000) == {}


def test_every_limit_stands_at_its_metric() -> None:
    one = budgets(trainable_params="200k", memory="2GiB", latency="3ms", checkpoint="1MB")
    assert one.limits(10**7) == {
        "trainable_params": 200_000.0,
        "peak_memory_bytes": 2.0**31,
        "latency_ms": 3.0,
        "checkpoint_bytes": 1e6,
    }


@given(st.integers(1, 100), st.integers(1, 10**6))
def test_a_whole_percentage_is_exact(percent: int, hundreds: int) -> None:
    assert budgets(trainable_params=f"{percent}%").limits(100 * hundreds)["trainable_params"] == percent * hundreds


def test_a_share_of_a_small_backbone_is_never_0() -> None:
    assert budgets(trainable_params="0.001%").limits(100)["trainable_params"] == 1


@pytest.mark.parametrize("share", ["0%", "101%", "-1%", "%"])
def test_a_share_is_above_0_and_up_to_100(share: str) -> None:
    with pytest.raises(ValidationError, match="percentage"):
        budgets(trainable_params=share)


@pytest.mark.parametrize(
    "given",
    [
        {"trials": 0},
        {"trials": 1_000_001},
        {"trials": True},
        {"steps": 1.5},
        {"time": "soon"},
        {"memory": -1},
        {"memry": 1},
        {"ece": 0},
        {"ece": 1},
        {"ece": "5%"},
        {"ece": float("nan")},
    ],
)
def test_what_is_no_budget_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        budgets(**given)


def test_quantities_read_as_written() -> None:
    one = budgets(time="10min", trial_time="90s", steps="2k", trials="24")
    assert (one.time, one.trial_time, one.steps, one.trials) == (600.0, 90.0, 2000, 24)


def test_a_violation_is_free_of_units_and_negative_inside() -> None:
    limits = {"trainable_params": 100.0, "latency_ms": 2.0}
    assert violations(limits, {"trainable_params": 150.0, "accuracy": 0.9}) == {"trainable_params": 0.5}
    assert violations(limits, {"trainable_params": 100.0, "latency_ms": 1.0}) == {
        "trainable_params": 0.0,
        "latency_ms": -0.5,
    }


def test_the_calibration_error_is_limited_after_calibration() -> None:
    limits = budgets(ece=0.05).limits(100)
    assert limits == {"calibrated_ece": 0.05}
    assert violations(limits, {"ece": 0.3, "calibrated_ece": 0.06})["calibrated_ece"] == pytest.approx(0.2)
    assert violations(limits, {"ece": 0.3}) == {}
