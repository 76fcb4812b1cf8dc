"""Memory in the screening: what trials measured corrects what is predicted."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluators.score import Cost, Score
from evaluators.tabulated import Table
from orchestrator.cli.dry_run import _costed
from orchestrator.early_stopping import rungs_of
from orchestrator.front import limits_of
from orchestrator.jobs import Job
from orchestrator.preparation import Prepared
from orchestrator.screening import MemoryFactor, foreseen
from orchestrator.search_work import SearchWork
from orchestrator.simulation import Unwatched, simulate, tabulated
from orchestrator.storage import IN_MEMORY, Storage
from orchestrator.work import Bench, Stop
from search_space.errors import SpecError
from tests.orchestrator.made_up import make_spec, make_trial
from tests.orchestrator.tables import RUNGS, space_of, spec_of, table_of


def after(ratios: list[float]) -> float:
    """Predict 1,000 bytes after trials that measured so many times of what was predicted."""
    factor = MemoryFactor(1.5)
    for number, ratio in enumerate(ratios):
        score = Score({"peak_memory_bytes": 500 * ratio}, 10, 1.0, "validation", 0)
        factor.note(replace(make_trial(number), cost=Cost(1, 1, 500)))
        factor.note(replace(make_trial(number), cost=Cost(1, 1, 500), scores=(score,)))
    return foreseen(Cost(1, 1, 1000), factor.value)["peak_memory_bytes"]


def test_the_factor_of_the_study_until_three_trials_are_measured() -> None:
    assert after([]) == after([1.0, 1.0]) == 1500


def test_the_factor_of_the_trials_from_then_on() -> None:
    assert after([1.2, 1.2, 1.2]) == 1200
    assert after([0.9, 0.9, 0.9, 0.9]) == 900


def test_memory_of_inference_is_only_raised_for_it_is_never_measured() -> None:
    cost = Cost(7, 1, 1000, inference_memory_bytes=400)
    assert [foreseen(cost, factor)["inference_memory_bytes"] for factor in (1.5, 0.9)] == [600, 400]
    assert [foreseen(cost, factor)["trainable_params"] for factor in (1.5, 0.9)] == [7, 7]


def test_a_dry_run_rejects_what_the_search_would() -> None:
    """Predicted 1,050 bytes under a limit of 1,000: over it as it is and times 1.5, within it times 0.9."""
    cost = Cost(7, 1, 1050)
    coster = SimpleNamespace(cost=lambda candidate, within: cost, parameters=100)
    prepared = Prepared(None, coster, {"peak_memory_bytes": 1000.0}, None, ())  # type: ignore[arg-type]
    rejected = [
        _costed(make_spec(budgets={"memory_factor": factor}), prepared, make_trial(0).candidate)["rejected"]
        for factor in (0.9, 1.5)
    ]
    assert rejected == [[], ["peak_memory_bytes"]]


def test_steps_are_divided_under_the_limit_and_the_factor() -> None:
    asked: list[float | None] = []
    coster = SimpleNamespace(cost=lambda candidate, within: asked.append(within))
    prepared = SimpleNamespace(coster=coster, limits={"peak_memory_bytes": 1200.0})
    Prepared.cost(prepared, make_trial(0).candidate, 1.5)  # type: ignore[arg-type]
    Prepared.cost(SimpleNamespace(coster=coster, limits={}), make_trial(0).candidate)  # type: ignore[arg-type]
    assert asked == [800.0, None]


def test_a_job_has_its_steps_divided_as_its_trial_was_costed() -> None:
    spec, table = spec_of(), table_of(20)
    rows = {key: replace(row, cost=replace(row.cost, accumulation=4)) for key, row in table.rows.items()}
    prepared, store = tabulated(spec, space_of(spec), Table(table.header, rows)), Storage(IN_MEMORY).create(spec)
    bench = Bench(store, prepared, Path("study"), Unwatched(), Stop(store, None, 0.0), lambda _trial: None)
    job = SearchWork(bench, [], rungs_of(spec, RUNGS[-1])).next_job()
    assert job is not None
    assert job.accumulation == 4
    assert Job.from_json(job.to_json()) == job


def test_a_study_that_divides_its_steps_by_a_limit_has_one() -> None:
    with pytest.raises(SpecError, match=r"training: `accumulate: auto` .* until budgets.memory is kept"):
        make_spec(training={"accumulate": "auto"})
    assert make_spec(training={"accumulate": "auto"}, budgets={"memory": "2GiB"}).training.accumulate == "auto"
    with pytest.raises(SpecError, match=r"training.accumulate"):
        make_spec(training={"accumulate": 0})


def test_the_limits_of_a_study_are_those_that_it_was_started_with() -> None:
    store = Storage(IN_MEMORY).create(make_spec(budgets={"memory": "2GiB"}))
    assert limits_of(store) == {"peak_memory_bytes": 2.0**31}
    store.note("limits", {"peak_memory_bytes": 1e9})
    assert limits_of(store) == {"peak_memory_bytes": 1e9}


def test_a_cost_without_memory_stays_as_it_is() -> None:
    assert foreseen(Cost(7, 1), 1.5) == Cost(7, 1).values


def test_a_later_measurement_of_a_trial_replaces_the_earlier_one() -> None:
    factor = MemoryFactor(1.0)
    for step, ratio in ((1, 3.0), (2, 0.9)):
        for number in range(3):
            score = Score({"peak_memory_bytes": 500 * ratio}, step, step / 2, "validation", 0)
            factor.note(replace(make_trial(number), cost=Cost(1, 1, 500), scores=(score,)))
        assert factor.value == pytest.approx(ratio)


def test_a_trial_costs_the_same_however_many_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked up of costs is counted after each trial's report, for the first forty and for the last."""
    looked_up, counted = count(), []
    values = Cost.values.fget

    def counting(cost: Cost) -> dict[str, float]:
        next(looked_up)
        return values(cost)  # type: ignore[no-any-return]

    monkeypatch.setattr(Cost, "values", property(counting))
    spec = spec_of(budgets={"trials": 120}, search={"sampler": "random"})
    simulate(spec, space_of(spec), table_of(150), until=lambda: bool(counted.append(next(looked_up))))
    assert counted[-1] - counted[-40] <= 2 * (counted[40] - counted[0])
