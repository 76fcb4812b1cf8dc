"""Seconds by phase: each second is counted once."""

from __future__ import annotations

import pytest

from evaluators import clock as clock_module
from evaluators.clock import Clock


def test_an_inner_phase_takes_its_time_away_from_the_outer(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 3.0, 5.0, 9.0])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(times))
    clock = Clock()
    with clock.phase("forward"), clock.phase("prefix"):
        pass
    assert dict(clock.seconds) == {"forward": 3.0 + 4.0, "prefix": 2.0}


def test_time_outside_of_phases_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 50.0, 52.0])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(times))
    clock = Clock()
    for _ in range(2):
        with clock.phase("tokens"):
            pass
    assert dict(clock.seconds) == {"tokens": 3.0}


def test_the_device_is_waited_for_at_every_edge() -> None:
    waited = []
    clock = Clock(lambda: waited.append(1))
    with clock.phase("forward"):
        pass
    assert len(waited) == 2


def test_a_phase_that_raises_is_closed() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="x"), clock.phase("forward"):
        raise ValueError("x")
    with clock.phase("tokens"):
        pass
    assert set(clock.seconds) == {"forward", "tokens"}
