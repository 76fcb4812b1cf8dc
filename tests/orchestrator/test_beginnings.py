"""What a search begins with: published candidates, another study's front, and the guard against what does no good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluators.tabulated import Table
from orchestrator.beginnings import beginnings, mistrusted
from orchestrator.simulation import simulate
from orchestrator.storage import IN_MEMORY, Storage, StudyStore, Trial
from search_space.errors import StudyNotFoundError
from search_space.published import lora, published
from tests.orchestrator.tables import space_of, spec_of, table_of


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of(60)


def run(table: Table, storage: Storage, name: str, **search: object) -> StudyStore:
    spec = spec_of(name=name, search=search, budgets={"trials": 12})
    store = storage.create(spec)
    store.note("reference_point", {"accuracy": 0.5, "trainable_params": 1e6})
    return simulate(spec, space_of(spec), table, store=store)


def test_all_that_is_published_parses_and_names_its_paper() -> None:
    assert all(any(year in name for year in ("201", "202")) for name in published())
    assert len(lora()) == 4
    assert len({one.sha256 for one in (*published().values(), *lora().values())}) >= 11


def test_published_candidates_come_first_each_with_where_it_comes_from(table: Table) -> None:
    trials = run(table, Storage(IN_MEMORY), "begun", proposals=["lora", "published"]).trials()
    origins = [one.origin for one in trials]
    assert origins[0] == ""
    assert origins[1].startswith("lora: LoRA on ")
    assert any(one.startswith("published: ") for one in origins)
    assert "" in origins[5:]


def test_what_is_not_in_the_space_or_over_budget_is_left_out(table: Table) -> None:
    spec = spec_of(search={"proposals": ["lora", "published"]}, budgets={"trainable_params": 2000})
    store = simulate(spec, space_of(spec), table)
    kept = store.noted("beginnings")
    assert "published: IA3 (Liu et al. 2022)" in {one["origin"] for one in kept}
    assert not any("UniPELT" in one["origin"] for one in kept)
    assert all(one.cost.trainable_params <= 2000 for one in store.trials() if one.origin and one.cost)


def test_a_study_begins_with_the_front_of_another(table: Table) -> None:
    storage = Storage(IN_MEMORY)
    first = run(table, storage, "first", sampler="random")
    second = run(table, storage, "second", sampler="random", seed=1, warm_start="first")
    complete = {one.candidate.sha256 for one in first.trials() if one.state == "complete"}
    warm = [one for one in second.trials() if one.origin]
    assert 1 <= len(warm) <= 5
    assert all(one.origin.startswith("study first: trial ") for one in warm)
    assert all(one.candidate.sha256 in complete for one in warm)
    assert [one.number for one in warm] == list(range(1, len(warm) + 1))


def test_it_is_chosen_once(table: Table) -> None:
    """What the other study finds later changes nothing."""
    storage = Storage(IN_MEMORY)
    run(table, storage, "first", sampler="random")
    second = run(table, storage, "second", warm_start="first")
    chosen = second.noted("beginnings")
    second.note("beginnings", chosen[:1])
    assert len(beginnings(second, None)) == 1  # type: ignore[arg-type]


def test_a_study_that_is_not_there_is_named_with_a_near_one(table: Table) -> None:
    storage = Storage(IN_MEMORY)
    run(table, storage, "first", sampler="random")
    with pytest.raises(StudyNotFoundError, match="'first'"):
        run(table, storage, "second", warm_start="frist")


class TestTheGuard:
    @pytest.fixture(scope="class")
    def trials(self, table: Table) -> list[Trial]:
        search = {"sampler": "random", "early_stopping": {"rungs": 1}}
        spec = spec_of(search=search, budgets={"trials": 12})
        return simulate(spec, space_of(spec), table).trials()

    def test_one_that_ended_is_not_enough(self, trials: list[Trial]) -> None:
        stopped = replace(trials[1], origin="study x: trial 1", state="partial")
        assert not mistrusted("study x", [trials[0], stopped], spec_of().objectives)

    def test_two_that_were_stopped_are(self, trials: list[Trial]) -> None:
        stopped = [replace(one, origin=f"study x: trial {one.number}", state="partial") for one in trials[1:3]]
        assert mistrusted("study x", [trials[0], *stopped], spec_of().objectives)
        assert not mistrusted("published", [trials[0], *stopped], spec_of().objectives)

    def test_one_on_the_front_is_trusted(self, trials: list[Trial]) -> None:
        best = max(trials, key=lambda one: one.scores[-1]["accuracy"])
        named = [replace(one, origin="study x: a") if one is best else one for one in trials]
        named[-1] = replace(named[-1], origin="study x: b", state="failed") if named[-1] is not best else named[-1]
        assert not mistrusted("study x", named, spec_of().objectives)

    def test_the_rest_of_a_mistrusted_source_is_passed_over(self, table: Table) -> None:
        faults = {row.candidate.sha256: "raise" for row in table.main() if row.candidate.method == "lora"}
        spec = spec_of(search={"proposals": ["lora"], "sampler": "random"}, budgets={"trials": 10})
        trials = simulate(spec, space_of(spec), table, faults=faults).trials()  # type: ignore[arg-type]
        assert sum(one.origin.startswith("lora") for one in trials) == 2
