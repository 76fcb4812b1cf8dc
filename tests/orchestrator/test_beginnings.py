"""What a search begins with: published candidates, another study's front, and the guard against what does no good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calibration.spec import CalibrationSpec
from evaluators.anatomy import anatomy_of
from evaluators.backbone import load
from evaluators.costing import meta_coster
from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec, TrainingSpec
from evaluators.tabulated import Table
from orchestrator.allocations import Allocations, worths
from orchestrator.beginnings import beginnings, mistrusted
from orchestrator.preparation import Prepared
from orchestrator.simulation import simulate
from orchestrator.spec import LOOKING
from orchestrator.storage import IN_MEMORY, Storage, StudyStore
from orchestrator.trial import Trial
from search_space.errors import SpecError, StudyError, StudyNotFoundError
from search_space.published import lora, published
from search_space.space import bind
from search_space.spec import SpaceSpec
from tests.evaluators.tiny import CLASSES, evaluator_spec
from tests.orchestrator.made_up import make_trial
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
        assert not mistrusted("study x", [trials[0], stopped], spec_of().objectives, {})

    def test_two_that_were_stopped_are(self, trials: list[Trial]) -> None:
        stopped = [replace(one, origin=f"study x: trial {one.number}", state="partial") for one in trials[1:3]]
        assert mistrusted("study x", [trials[0], *stopped], spec_of().objectives, {})
        assert not mistrusted("published", [trials[0], *stopped], spec_of().objectives, {})

    def test_two_that_pause_are_until_one_of_them_is_on_the_front(self, trials: list[Trial]) -> None:
        first, second = [replace(one, origin=f"study x: trial {one.number}", state="paused") for one in trials[1:3]]
        assert mistrusted("study x", [trials[0], first, second], spec_of().objectives, {})
        assert not mistrusted("study x", [trials[0], first, replace(second, state="running")], spec_of().objectives, {})
        values = {"accuracy": 0.99, "trainable_params": 1.0}
        best = replace(second, state="complete", scores=(replace(second.scores[-1], values=values),))
        assert not mistrusted("study x", [trials[0], first, best], spec_of().objectives, {})

    def test_one_on_the_front_is_trusted(self, trials: list[Trial]) -> None:
        best = max(trials, key=lambda one: one.scores[-1]["accuracy"])
        named = [replace(one, origin="study x: a") if one is best else one for one in trials]
        named[-1] = replace(named[-1], origin="study x: b", state="failed") if named[-1] is not best else named[-1]
        assert not mistrusted("study x", named, spec_of().objectives, {})

    def test_what_is_better_and_breaks_a_limit_is_nobody_to_be_beaten_by(self) -> None:
        def trial(number: int, accuracy: float, latency: float, origin: str = "") -> Trial:
            values = {"accuracy": accuracy, "trainable_params": 100.0, "latency_ms": latency}
            return make_trial(number, values, origin=origin)

        over = trial(0, 0.95, 9.0)
        named = [trial(number, 0.9, 2.0, f"study x: trial {number}") for number in (1, 2)]
        assert mistrusted("study x", [over, *named], spec_of().objectives, {})
        assert not mistrusted("study x", [over, *named], spec_of().objectives, {"latency_ms": 3.0})
        better = trial(3, 0.92, 2.5)
        assert mistrusted("study x", [over, *named, better], spec_of().objectives, {"latency_ms": 3.0})

    def test_the_rest_of_a_mistrusted_source_is_passed_over(self, table: Table) -> None:
        faults = {row.candidate.sha256: "raise" for row in table.main() if row.candidate.method == "lora"}
        spec = spec_of(search={"proposals": ["lora"], "sampler": "random"}, budgets={"trials": 10})
        trials = simulate(spec, space_of(spec), table, faults=faults).trials()  # type: ignore[arg-type]
        assert sum(one.origin.startswith("lora") for one in trials) == 2


def test_what_gradients_say_comes_from_a_process_of_its_own(tmp_path: Path) -> None:
    evaluator = evaluator_spec(tmp_path)
    anatomy = anatomy_of(load(evaluator.model, 3).model)
    lora = {"r": {"of": [1, 2, 4, 8], "per": "layer"}, "layers": "all"}
    space = bind(SpaceSpec.model_validate({"methods": {"lora": lora}, "hybrids": []}), anatomy)
    coster = meta_coster(evaluator.model, 3, evaluator.training, 16)
    prepared = Prepared(space, coster, {"trainable_params": 4000.0}, evaluator, CLASSES)
    allocations = Allocations(prepared, seed=0)
    for source in LOOKING:
        found = dict(allocations.of(source))
        assert next(iter(found)) == "within 4k parameters"
        for (name, candidate), most in zip(found.items(), (4000, 1000, 250), strict=False):
            assert coster.count(candidate) <= most, name
            space.encode(candidate)


def test_a_model_that_cannot_be_looked_at_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    evaluator = EvaluatorSpec(ModelSpec(name="m"), TrainingSpec(), CalibrationSpec(), "tokens", 1)
    with pytest.raises(StudyError, match=r"it was killed; take saliency, adalora, eva out of search\.proposals"):
        worths(evaluator)


def test_a_study_without_a_model_has_no_gradients() -> None:
    with pytest.raises(SpecError, match=r"synthetic: it has no model to look at; take 'eva' out of search\.proposals"):
        spec_of(search={"proposals": ["lora", "eva"]})


def test_a_study_cannot_begin_with_itself() -> None:
    with pytest.raises(SpecError, match=r"search: warm_start names this study, 'simulated'; name another one"):
        spec_of(search={"warm_start": "simulated"})
