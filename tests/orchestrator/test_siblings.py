"""Siblings: candidates of one shape that a search proposes to be trained in one forward pass, each a whole trial."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators import packing
from evaluators.evaluation import build_evaluator
from evaluators.packable import held, shape_of
from evaluators.synthetic import SyntheticCoster, SyntheticCrew, SyntheticRun
from evaluators.trained import TrainedRun
from orchestrator import siblings, study
from orchestrator.home import Home
from orchestrator.jobs import Job
from orchestrator.preparation import prepare
from orchestrator.reach import Reach
from orchestrator.simulation import simulate
from orchestrator.spec import StudySpec, parse
from orchestrator.step_budget import SPENT
from orchestrator.storage import StudyStore
from orchestrator.study import run_study
from orchestrator.trial import Trial
from search_space.errors import EvaluationError, SpecError
from search_space.knobs import Holding, RandomChooser
from search_space.notation import parse as candidate_of
from search_space.space import bind
from tests.evaluators.tiny import questions_file, tiny_folder
from tests.orchestrator import in_process, tables
from tests.orchestrator.in_process import Watched, spec_of, store_of

SPACE = {"methods": {"lora": {"layers": ["all", "top:2"]}, "serial_adapter": {}, "ia3": {}}, "hybrids": []}
SETTINGS = {"space": SPACE, "resources": {"together": 3}, "search": {"references": [], "finalists": {"count": 0}}}
Crews = list[list[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        in_process.forget_settings(patch)
        yield Home(tmp_path_factory.mktemp("home")).create()


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> Crews:
    """Run studies in this process, and note the keys of what is handed out together."""
    found: Crews = []
    in_process.in_this_process(monkeypatch)
    next_job = study.SearchWork.next_job

    def noted(self: study.SearchWork) -> Job | None:
        job = next_job(self)
        if job is not None:
            found.append([one.key for one in job.crew])
        return job

    monkeypatch.setattr(study.SearchWork, "next_job", noted)
    return found


def given(**more: Any) -> dict[str, Any]:
    search = SETTINGS["search"] | more.pop("search", {})
    return SETTINGS | {"search": search} | more


def run(home: Home, name: str, watched: Watched | None = None, **more: Any) -> StudyStore:
    store = store_of(home, spec_of(name, **given(**more)))
    run_study(store, home, watched or Watched())
    return store


def shapes(store: StudyStore, crew: list[str]) -> set[str | None]:
    return {shape_of(store.trial("search", int(key.partition("/")[2])).candidate) for key in crew}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp", "forest"])
def test_a_search_proposes_candidates_of_one_shape_together(home: Home, crews: Crews, sampler: str) -> None:
    budgets = {"trials": 14, "steps": 2000}
    store = run(home, f"all-{sampler}", search={"sampler": sampler, "startup_trials": 4, "seed": 3}, budgets=budgets)
    assert Counter(map(len, crews))[3] >= 2
    for crew in crews:
        assert len(shapes(store, crew)) == 1
        assert len(crew) == 1 or None not in shapes(store, crew)
    trained = [one for one in store.trials() if one.state != "infeasible"]
    assert len(trained) == 14 == len({key for crew in crews for key in crew})
    assert {one.state for one in trained} <= {"complete", "partial"}
    assert len({one.candidate.sha256 for one in trained}) == 14
    assert [one.number for one in store.trials()] == list(range(len(store.trials())))
    together = [store.trial("search", int(key.partition("/")[2])) for crew in crews if len(crew) == 3 for key in crew]
    assert len({one.candidate.recipe.learning_rates for one in together}) > len(together) / 2
    assert all(one.cost is not None for one in together)
    mates = {key for crew in crews for key in crew[1:]}
    assert any(one.origin == "forest" for one in trained if one.key in mates) == (sampler == "forest")


def test_alone_it_is_as_before(home: Home, crews: Crews) -> None:
    store = run(home, "one", resources={"together": 1})
    assert {len(crew) for crew in crews} == {1}
    assert [one.number for one in store.trials() if one.state == "running"] == []


def test_what_cannot_be_packed_goes_alone(home: Home, crews: Crews) -> None:
    store = run(home, "mixed", budgets={"trials": 20}, search={"sampler": "random", "seed": 1})
    alone = [crew[0] for crew in crews if len(crew) == 1]
    found = {store.trial("search", int(key.partition("/")[2])).candidate.method for key in alone}
    assert "ia3" in found
    for crew in crews:
        candidates = [store.trial("search", int(key.partition("/")[2])).candidate for key in crew]
        assert len(crew) == 1 or not any(dict(part.knobs).get("use_dora") for one in candidates for part in one.parts)


@pytest.mark.parametrize(
    "more",
    [
        {"objectives": [{"maximize": "accuracy"}, {"minimize": "training_seconds"}]},
        {"budgets": {"trials": 12, "training_time": "1h"}},
    ],
)
def test_a_search_on_time_trains_each_alone(home: Home, crews: Crews, more: dict[str, Any]) -> None:
    spec = spec_of("timed", **given(**more))
    prepared = prepare(spec, home.study("timed"))
    job = Job("search/0", candidate_of("lora"), 0, (90,))
    assert siblings.Siblings(spec, prepared).wanted(job) == 0
    plain = siblings.Siblings(spec_of("untimed", **given()), prepared)
    assert (plain.wanted(job), plain.wanted(replace(job, accumulation=2))) == (2, 0)


def test_the_gain_is_no_objective() -> None:
    with pytest.raises(SpecError, match="cannot be searched on"):
        spec_of("gain", objectives=[{"maximize": "accuracy"}, {"maximize": "packing_gain"}])


@pytest.mark.parametrize(("budgets", "most"), [({"trials": 7}, 7 * 90), ({"trials": 100, "steps": 300}, 300)])
def test_every_member_counts_in_the_budgets(home: Home, crews: Crews, budgets: dict[str, int], most: int) -> None:
    store = run(home, f"budget-{most}", budgets=budgets)
    trained = [one for one in store.trials() if one.state != "infeasible"]
    assert len(trained) <= budgets["trials"]
    assert sum(one.steps for one in trained) <= most
    assert all(one.state != "running" for one in store.trials())
    assert any(len(crew) > 1 for crew in crews)


def test_beside_candidates_that_pause_every_member_is_paid_for_to_its_end(home: Home, crews: Crews) -> None:
    search = {"sampler": "forest", "startup_trials": None}
    objectives = [{"maximize": "accuracy"}, {"minimize": "trainable_params"}]
    store = run(home, "paid", objectives=objectives, search=search, budgets={"trials": 100, "steps": 650})
    trials = {one.key: one for one in store.trials()}
    assert any(one.has_paused for one in trials.values())
    members = [trials[key] for crew in crews if len(crew) > 1 for key in crew]
    assert SPENT not in {one.message for one in members}


def test_a_member_that_diverges_fails_alone_and_one_is_stopped(
    home: Home, crews: Crews, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, kept = SyntheticRun.advance, Reach.is_kept

    def failing(self: SyntheticRun, step: int) -> Any:
        if self.candidate == spoilt[0]:
            raise EvaluationError("diverged", "told to")
        return advance(self, step)

    spoilt: list[Any] = [None]
    watched = Watched()

    def spoil(trial: Trial) -> None:
        if trial.number == 1 and spoilt[0] is None:
            spoilt[0] = trial.candidate

    watched.at_change = spoil
    monkeypatch.setattr(SyntheticRun, "advance", failing)
    monkeypatch.setattr(Reach, "is_kept", lambda self, number, score: number != 2 and kept(self, number, score))
    store = run(home, "one-fails", watched, budgets={"trials": 6})
    assert crews[0] == ["search/0", "search/1", "search/2"]
    first = [(one.state, one.cause, one.steps) for one in store.trials()[:3]]
    assert first == [("complete", None, 90), ("failed", "diverged", 0), ("partial", None, 10)]


def test_a_killed_driver_leaves_nothing_running_and_nothing_is_trained_twice(home: Home, crews: Crews) -> None:
    class KilledError(BaseException):
        pass

    def kill(trial: Trial) -> None:
        if trial.number == 4 and trial.scores:
            raise KilledError

    watched = Watched()
    watched.at_change = kill
    store = store_of(home, spec_of("killed", **given(budgets={"trials": 12})))
    with pytest.raises(KilledError):
        run_study(store, home, watched)
    left = [one.key for one in store.trials() if one.state == "running"]
    assert left == ["search/3", "search/4", "search/5"]
    before = {one.key: one for one in store.trials() if one.state != "running"}
    crews.clear()
    watched = Watched()
    store = run(home, "killed", watched, budgets={"trials": 12})
    assert crews[: len(left)] == [[key] for key in left]
    assert not {one.key for one in watched.changes} & set(before)
    assert {one.key: one for one in store.trials() if one.key in before} == before
    assert all(one.state != "running" for one in store.trials())
    assert sum(one.state != "infeasible" for one in store.trials()) == 12


def test_a_gain_that_is_too_small_ends_it_and_is_told_once(
    home: Home, crews: Crews, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SyntheticCrew, "gain", 0.9)
    with caplog.at_level(logging.WARNING, "paretune.search"):
        store = run(home, "slow", budgets={"trials": 30}, search={"sampler": "random", "seed": 2})
    together = [crew for crew in crews if len(crew) > 1]
    assert 1 <= len(together) <= 3
    assert len({shape for crew in together for shape in shapes(store, crew)}) == len(together)
    assert [one.message.partition(":")[0] for one in caplog.records] == ["packing does not pay here"]
    assert "took 0.9 times as long" in caplog.records[0].message
    members = {key for crew in together for key in crew}
    assert {one.key for one in store.trials() if one.score and "packing_gain" in one.score.values} == members
    crews.clear()
    run(home, "slow", budgets={"trials": 40}, search={"sampler": "random", "seed": 2})
    assert {len(crew) for crew in crews} == {1}, "a resumed study knows"


def test_a_simulated_study_trains_siblings_one_after_another() -> None:
    table = tables.table_of()
    spec = tables.spec_of(resources={"together": 3})
    same = simulate(tables.spec_of(), tables.space_of(spec), table).trials()
    assert [one.candidate for one in simulate(spec, tables.space_of(spec), table).trials()] == [
        one.candidate for one in same
    ]


@pytest.mark.parametrize("name", ["lora", "lora_plus", "serial_adapter", "parallel_adapter"])
def test_what_is_held_gives_one_shape(name: str) -> None:
    space = bind(spec_of("held", space={"methods": {name: {}}, "hybrids": []}).space, ANATOMY)
    chooser, seen = RandomChooser(0), 0
    for _ in range(40):
        candidate = space.draw(chooser)
        known = held(space, candidate)
        if known is None:
            assert shape_of(candidate) is None
            continue
        seen += 1
        others = [space.draw(Holding(chooser, known)) for _ in range(5)]
        assert {shape_of(one) for one in others} == {shape_of(candidate)}
        assert len({one.sha256 for one in others}) == 5
    assert seen >= 10


ANATOMY = SyntheticCoster().anatomy


@pytest.mark.parametrize(
    "text",
    ["ia3", "lora(use_dora=true)", "lora | lr=0.01 dropout=0.1", "lora@embeddings", "lora + bitfit | lr=0.1/0.1"],
)
def test_what_can_never_be_packed_has_no_shape(text: str) -> None:
    assert shape_of(candidate_of(text)) is None


def test_where_nothing_else_is_searched_there_are_no_siblings() -> None:
    fixed = {"r": 8, "alpha": 16, "use_rslora": False, "learning_rate": 1e-3, "use_dora": False}
    space = bind(spec_of("fixed", space={"methods": {"lora": fixed}, "hybrids": []}).space, ANATOMY)
    assert held(space, space.draw(RandomChooser(0))) is None


def tiny_study(folder: Path, name: str, device: str = "cpu", **more: Any) -> StudySpec:
    tiny_folder(folder / "model", num_labels=3)
    data = {
        "name": name,
        "model": {"name": str(folder / "model"), "dtype": "float32", "device": device, "attention": "sdpa"},
        "task": questions_file(folder),
        "space": {"methods": {"lora": {"use_dora": False, "projections": "attention"}}, "hybrids": []},
        "training": {"batch_size": 8, "max_length": 16, "steps": 24},
        "calibration": {"folds": 2, "floor_draws": 100, "scarce": 0},
        "budgets": {"trials": 6},
        "search": {"sampler": "random", "references": [], "finalists": {"count": 0}, "startup_trials": 2},
        "resources": {"together": 3},
    }
    return parse(data | more)


class TestTrained:
    """Studies that train a tiny model, packed whatever is gained."""

    @pytest.fixture(autouse=True)
    def worth_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packing, "WORTH", 0.0)
        monkeypatch.setattr(siblings, "WORTH", 0.0)

    def test_each_member_is_what_it_would_be_alone(
        self, home: Home, crews: Crews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packed, step = Counter[int](), packing.Pack._step

        def counted(self: packing.Pack, active: Any) -> Any:
            packed[len(active)] += 1
            return step(self, active)

        descend = TrainedRun.descend

        def failing(self: TrainedRun) -> None:
            if self.attached.candidate == spoilt and self.step >= 5:
                raise EvaluationError("diverged", "told to")
            descend(self)

        kept = Reach.is_kept
        monkeypatch.setattr(packing.Pack, "_step", counted)
        monkeypatch.setattr(TrainedRun, "descend", failing)
        monkeypatch.setattr(Reach, "is_kept", lambda self, number, score: number != 1 and kept(self, number, score))
        spec, spoilt = tiny_study(tmp_path, "tiny"), None
        watched = Watched()

        def spoil(trial: Trial) -> None:
            nonlocal spoilt
            if trial.number == 4:
                spoilt = trial.candidate

        watched.at_change = spoil
        store = store_of(home, spec)
        run_study(store, home, watched)
        assert crews == [["search/0", "search/1", "search/2"], ["search/3", "search/4", "search/5"]]
        assert packed[3] > 0
        assert packed[2] > 0
        trials = store.trials()
        assert [one.state for one in trials] == ["complete", "partial", "complete", "complete", "failed", "complete"]
        assert (trials[1].steps, trials[4].cause) == (trials[0].scores[0].step, "diverged")
        assert all("packing_gain" in trials[number].scores[-1].values for number in (0, 2, 3, 5))
        spoilt = None
        prepared = prepare(spec, home.study("tiny"))
        evaluator = build_evaluator(prepared.evaluator)
        for one in trials:
            alone = evaluator.start(one.candidate, one.seed)
            for score in one.scores:
                again = alone.advance(score.step)
                assert score["nll"] == pytest.approx(again["nll"], rel=1e-2)
                assert (score["trainable_params"], score.fidelity) == (again["trainable_params"], again.fidelity)

    @pytest.mark.gpu
    def test_on_a_gpu(self, home: Home, crews: Crews, tmp_path: Path) -> None:
        spec = tiny_study(tmp_path, "gpu", "cuda", resources={"together": 4}, budgets={"trials": 8})
        store = store_of(home, spec)
        run_study(store, home, Watched())
        assert [len(crew) for crew in crews] == [4, 4]
        trials = store.trials()
        assert all(one.state in ("complete", "partial") for one in trials)
        gains = [one.score["packing_gain"] for one in trials if one.score is not None and one.score.full]
        assert gains
        assert all(gain > 0 for gain in gains)


def test_on_ray_members_are_stopped_one_by_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process.unrecorded(monkeypatch)
    stopping = {"rule": "halving", "grace": 1}
    resources = {"together": 4, "cpus": 0.5, "concurrency": 1}
    search = {"early_stopping": stopping, "sampler": "random"}
    store = run(home, "on-ray", resources=resources, budgets={"trials": 16}, search=search)
    states = Counter(one.state for one in store.trials() if one.state != "infeasible")
    assert set(states) == {"complete", "partial"}
    assert sum(states.values()) == 16
    assert {one.steps for one in store.trials() if one.state == "partial"} <= {10, 30}
