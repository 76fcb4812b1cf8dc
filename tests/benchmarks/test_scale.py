"""The benchmark of scale: it times what studies run, and says which part grows."""

from __future__ import annotations

import pytest

from benchmarks.scale import GOAL_TRIALS, PARTS, exponent, markdown, measured


def test_every_sampler_goes_on_with_the_same_study() -> None:
    found = measured([8, 12], ["random", "forest"])
    for times in (one for by in found.values() for one in by.values()):
        assert times["processor"] > 0
        assert set(times["parts"]) == set(PARTS)
        assert times["parts"]["storage"] > 0
    assert found["forest"][12]["parts"]["proposal"] > found["random"][12]["parts"]["proposal"]


def test_an_exponent_is_that_of_a_power_law() -> None:
    assert exponent({500: 1.0, 2000: 4.0, 10_000: 20.0}) == pytest.approx(1.0)
    assert exponent({100: 9.0, 500: 3.0, 5000: 300.0}) == pytest.approx(2.0)
    assert exponent({500: 3.0, 1000: 3.0}) == pytest.approx(0.0)
    assert exponent({100: 1.0, 500: 2.0}) is None


def test_the_section_names_the_goal_and_what_bounds_it() -> None:
    def times(milliseconds: float) -> dict[str, object]:
        parts = dict.fromkeys(PARTS, milliseconds / len(PARTS))
        return {"processor": milliseconds, "clock": milliseconds, "parts": parts}

    text = markdown({"forest": {500: times(50.0), GOAL_TRIALS: times(101.0)}})
    assert "| forest | 50.0 | 101.0 | n^0.51 |" in text
    assert "at most 100 ms at 2,000 trials: **not reached**" in text
    assert "| forest | 20.2 (n^0.51) |" in text
    assert "other work" not in text
    assert "By the clock it took 2.0 times as long" in markdown({"forest": {500: {**times(50.0), "clock": 100.0}}})
