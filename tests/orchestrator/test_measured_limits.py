"""Limits on what is measured: who is over one for good stops there, and is told as infeasible."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from evaluators.synthetic import synthetic_params
from evaluators.tabulated import Table
from orchestrator.early_stopping import rungs_of
from orchestrator.front import front_of, is_over_for_good
from orchestrator.jobs import Job
from orchestrator.projection import run_of
from orchestrator.search_work import SearchWork
from orchestrator.simulation import Unwatched, simulate, tabulated
from orchestrator.spec import StudySpec
from orchestrator.storage import IN_MEMORY, Storage, StudyStore
from orchestrator.trial import Trial
from orchestrator.work import Bench, Stop
from search_space.budgets import within
from tests.orchestrator.made_up import make_score
from tests.orchestrator.tables import RUNGS, space_of, spec_of, table_of

SAMPLERS = ("tpe", "random", "nsga2", "gp", "forest")


@pytest.fixture(scope="module")
def table() -> Table:
    """Latency grows with the size, and is the same at every rung; memory is measured at the end only."""
    table = table_of(120)
    rows = {}
    for key, row in table.rows.items():
        size = synthetic_params(row.candidate)
        measured = {**row.measured, "latency_ms": 1 + math.log10(size), "peak_memory_bytes": float(size)}
        rows[key] = replace(row, measured=measured)
    return Table(table.header, rows)


@pytest.fixture(scope="module")
def limit(table: Table) -> float:
    """Half of the candidates are over it."""
    return float(np.median([row.measured["latency_ms"] for row in table.main()]))


def study(limit: float, sampler: str = "forest", rungs: int = 3, trials: int = 24, rule: str = "reach") -> StudySpec:
    early = {"rungs": rungs, "rule": rule, "grace": 2}
    return spec_of(
        search={"sampler": sampler, "early_stopping": early}, budgets={"trials": trials, "latency": f"{limit}ms"}
    )


def searched(table: Table, spec: StudySpec) -> StudyStore:
    return simulate(spec, space_of(spec), table)


def over(trials: list[Trial], limit: float) -> list[Trial]:
    return [one for one in trials if one.scores and one.scores[0]["latency_ms"] > limit]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_over_the_limit_at_its_first_rung_stops_there_and_is_told_as_infeasible(
    table: Table, limit: float, sampler: str
) -> None:
    store = searched(table, study(limit, sampler))
    trials = store.trials()
    stopped = over(trials, limit)
    assert len(stopped) > 1
    assert {(one.state, one.cause, one.steps) for one in stopped} == {("partial", None, RUNGS[0])}
    assert all(one.message.startswith("over budget: latency_ms ") for one in stopped)
    assert all(one.scores[-1]["latency_ms"] <= limit for one in trials if one.state == "complete")
    told = store.studies["search"].get_trials(deepcopy=False)
    assert all(told[one.number].constraints["measured latency_ms"] > 0 for one in stopped)
    front = front_of(store.spec, trials, {"latency_ms": limit})
    assert {front.tags[one.number] for one in stopped} == {"infeasible"}
    assert {member.number for member in front.members}.isdisjoint(one.number for one in stopped)
    assert {run_of(one, front.tags[one.number]).tags["pareto"] for one in stopped} == {"infeasible"}


def test_those_who_keep_the_limit_stop_as_before(table: Table, limit: float) -> None:
    trials = searched(table, study(limit, "random", trials=60)).trials()
    others = [one for one in trials if one.state == "partial" and one not in over(trials, limit)]
    assert others
    assert {one.message for one in others} == {"stopped at its rung"}
    assert set(front_of(spec_of(), others, {"latency_ms": limit}).tags.values()) == {"partial"}


def test_with_one_rung_it_is_trained_to_its_end_and_is_infeasible_there(table: Table, limit: float) -> None:
    trials = searched(table, study(limit, "random", rungs=1)).trials()
    stopped = over(trials, limit)
    assert {one.state for one in stopped} == {"complete"}
    assert {front_of(spec_of(), trials, {"latency_ms": limit}).tags[one.number] for one in stopped} == {"infeasible"}


@pytest.mark.parametrize("rule", ["reach", "halving"])
def test_a_killed_study_goes_on_with_the_candidates_that_it_would_have_had(
    table: Table, limit: float, rule: str
) -> None:
    spec, ticks = study(limit, rule=rule), count()
    whole = searched(table, spec).trials()
    store = Storage(IN_MEMORY).create(spec)
    simulate(spec, space_of(spec), table, store=store, until=lambda: next(ticks) > 17)
    resumed = simulate(spec, space_of(spec), table, store=StudyStore(store.storage, store.name)).trials()
    assert [(one.candidate, one.state, one.steps) for one in resumed] == [
        (one.candidate, one.state, one.steps) for one in whole
    ]


def test_where_nothing_is_within_the_limit_first_rungs_alone_lead_the_forest_there(table: Table) -> None:
    """Nobody is trained to the end, so nobody tells what is gained; the latency is known all the same."""
    least = min(row.measured["latency_ms"] for row in table.main()) - 0.01

    def excess(sampler: str) -> float:
        trials = searched(table, study(least, sampler, trials=40)).trials()
        assert {one.steps for one in trials} == {RUNGS[0]}
        return float(np.mean([one.scores[-1]["latency_ms"] for one in trials[10:]])) - least

    assert excess("forest") < 0.7 * excess("random")


def test_the_forest_keeps_the_limit_as_often_as_where_all_are_trained_to_the_end(table: Table) -> None:
    limit = sorted(row.measured["latency_ms"] for row in table.main())[30]

    def kept(rungs: int) -> float:
        trials = searched(table, study(limit, rungs=rungs, trials=40)).trials()
        return float(np.mean([one.scores[-1]["latency_ms"] <= limit for one in trials[10:]]))

    assert kept(3) >= kept(1) - 0.1


def test_what_training_may_still_change_is_not_the_last_word() -> None:
    limits = {"calibrated_ece": 0.1, "debiased_squared_error": 0.1, "checkpoint_bytes": 5.0, "latency_ms": 3.0}
    values = {"accuracy": 0.5, "debiased_squared_error": 0.4, "checkpoint_bytes": 9.0, "latency_ms": 3.0}
    assert not is_over_for_good(make_score(values, 10), limits)
    assert is_over_for_good(make_score(values | {"latency_ms": 3.1}, 10), limits)
    assert is_over_for_good(make_score({"training_seconds": 9.0}, 10), {"training_seconds": 8.0})
    assert not within(limits, values)


def test_references_are_trained_to_the_end(table: Table, limit: float) -> None:
    spec = study(limit)
    store = Storage(IN_MEMORY).create(spec)
    prepared = tabulated(spec, space_of(spec), table)
    bench = Bench(store, prepared, Path("none"), Unwatched(), Stop(store, None, 0.0), lambda _trial: None)
    work = SearchWork(bench, [], rungs_of(spec, RUNGS[-1]))
    row = next(one for one in table.main() if one.measured["latency_ms"] > limit)
    number = store.add("references", row.candidate, row.cost, 0, "full")
    job = Job(f"references/{number}", row.candidate, 0, RUNGS)
    assert work.on_score(job, table.score(row, 0, "validation"))
