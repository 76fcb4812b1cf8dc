"""Memory in the screening: what trials measured corrects what is predicted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from evaluators.score import Cost, Score
from orchestrator.work import SearchWork
from tests.orchestrator.made_up import make_trial


def foreseen(ratios: list[float]) -> float:
    """Predict 1,000 bytes after trials that measured so many times of what was predicted."""
    trials = {}
    for number, ratio in enumerate(ratios):
        score = Score({"peak_memory_bytes": 500 * ratio}, 10, 1.0, "validation", 0)
        trials[number] = replace(make_trial(number), cost=Cost(1, 1, 500), scores=(score,))
    work = SimpleNamespace(_tried=trials, _budgets=SimpleNamespace(memory_factor=1.5))
    return SearchWork._foreseen(work, Cost(1, 1, 1000))["peak_memory_bytes"]  # type: ignore[arg-type]


def test_the_factor_of_the_study_until_three_trials_are_measured() -> None:
    assert foreseen([]) == foreseen([1.0, 1.0]) == 1500


def test_the_factor_of_the_trials_from_then_on() -> None:
    assert foreseen([1.2, 1.2, 1.2]) == 1200
    assert foreseen([0.9, 0.9, 0.9, 0.9]) == 900


def test_a_cost_without_memory_stays_as_it_is() -> None:
    work = SimpleNamespace(_tried={}, _budgets=SimpleNamespace(memory_factor=1.5))
    assert SearchWork._foreseen(work, Cost(7, 1)) == Cost(7, 1).values  # type: ignore[arg-type]
