"""The storage: what every back end must do, and what a driver that is killed at any write leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from evaluators.score import Cost, Score
from evaluators.synthetic import SyntheticCoster
from orchestrator.samplers import build_sampler
from orchestrator.spec import StudySpec, parse
from orchestrator.storage import Storage, StudyStore
from orchestrator.trial import PHASES
from search_space.candidate import Candidate
from search_space.errors import StudyExistsError, StudyNotFoundError
from search_space.notation import parse as candidate_of
from search_space.space import Space, bind
from search_space.spec import SpaceSpec

SPACE: Space = bind(SpaceSpec(preset="lora"), SyntheticCoster().anatomy)
COST = Cost(100, 10, 2**20)


def spec_of(name: str = "demo", **given: Any) -> StudySpec:
    return parse({"name": name, "model": "-", "task": "x", "space": "lora", "search": {"sampler": "random"}, **given})


def score(step: int = 90, accuracy: float = 0.9, split: Any = "validation", seed: int = 0) -> Score:
    return Score({"accuracy": accuracy, "trainable_params": 100.0}, step, step / 90, split, seed)


def begin(store: StudyStore, fixed: Candidate | None = None) -> tuple[int, Candidate]:
    """Draw a trial and start it, as a driver does."""
    sampler = build_sampler(store.spec, len(store.trials()))
    number, candidate = store.ask(SPACE, sampler, fixed)
    store.start(number, candidate, COST, 7, {"trainable_params": -0.5})
    return number, candidate


class StorageContract:
    """What a back end must do. A subclass gives the fixture `url`, of a storage that is empty."""

    @pytest.fixture
    def storage(self, url: str) -> Storage:
        return Storage(url)

    @pytest.fixture
    def store(self, storage: Storage) -> StudyStore:
        return storage.create(spec_of())

    def test_a_study_keeps_its_spec(self, storage: Storage, url: str) -> None:
        storage.create(spec_of())
        assert Storage(url).open("demo").spec == spec_of()
        assert Storage(url).names() == ["demo"]

    def test_creating_again_opens(self, storage: Storage) -> None:
        number, _ = begin(storage.create(spec_of()))
        assert [one.number for one in storage.create(spec_of()).trials()] == [number]
        assert storage.names() == ["demo"]

    def test_creating_again_with_more_budget_extends(self, storage: Storage) -> None:
        storage.create(spec_of(budgets={"trials": 3}))
        assert storage.create(spec_of(budgets={"trials": 30})).spec.budgets.trials == 30

    def test_another_spec_of_the_name_is_refused(self, storage: Storage) -> None:
        storage.create(spec_of())
        with pytest.raises(StudyExistsError, match="a study 'demo' exists with another spec; give this"):
            storage.create(spec_of(space="default"))
        assert storage.open("demo").spec == spec_of()

    def test_an_unknown_study_is_answered_with_the_nearest(self, storage: Storage) -> None:
        storage.create(spec_of("trec-minilm"))
        with pytest.raises(StudyNotFoundError, match=r"no study 'trec-minilm6' \(did you mean 'trec-minilm'\?\)"):
            storage.open("trec-minilm6")

    def test_studies_are_listed_in_the_order_of_their_creation(self, storage: Storage) -> None:
        for name in ("c", "a", "b"):
            storage.create(spec_of(name))
        assert storage.names() == ["c", "a", "b"]

    def test_the_phases_of_a_study_are_no_studies(self, store: StudyStore) -> None:
        for phase in PHASES[1:]:
            with pytest.raises(StudyNotFoundError):
                store.storage.open(f"demo/{phase}")

    def test_a_trial_is_what_was_started(self, store: StudyStore, url: str) -> None:
        number, candidate = begin(store)
        for one in (store, Storage(url).open("demo")):
            trial = one.trial("search", number)
            assert (trial.candidate, trial.cost, trial.seed, trial.state) == (candidate, COST, 7, "running")
            assert (trial.key, trial.scores, trial.score, trial.steps) == (f"search/{number}", (), None, 0)
            assert trial.started is not None
            assert trial.finished is None

    def test_a_given_candidate_is_entered_as_if_drawn(self, store: StudyStore) -> None:
        _, candidate = begin(store, SPACE.usual())
        assert candidate == SPACE.usual()
        drawn = [begin(store)[1] for _ in range(3)]
        assert len({one.sha256 for one in (candidate, *drawn)}) > 1

    def test_scores_are_kept_in_the_order_of_their_steps(self, store: StudyStore, url: str) -> None:
        number, _ = begin(store)
        for step in (30, 10, 90):
            store.report("search", number, score(step, step / 100))
        for one in (store, Storage(url).open("demo")):
            assert [s.step for s in one.trial("search", number).scores] == [10, 30, 90]

    def test_reporting_a_rung_again_replaces_it(self, store: StudyStore) -> None:
        number, _ = begin(store)
        store.report("search", number, score(10, 0.5))
        store.report("search", number, score(10, 0.6))
        assert [s["accuracy"] for s in store.trial("search", number).scores] == [0.6]

    @pytest.mark.parametrize(
        ("state", "cause", "optuna_state"),
        [
            ("complete", None, TrialState.COMPLETE),
            ("partial", None, TrialState.PRUNED),
            ("infeasible", None, TrialState.PRUNED),
            ("failed", "out_of_memory", TrialState.FAIL),
        ],
    )
    def test_a_trial_is_settled_once_and_for_all(
        self, store: StudyStore, url: str, state: Any, cause: Any, optuna_state: TrialState
    ) -> None:
        number, _ = begin(store)
        store.report("search", number, score())
        store.finish("search", number, state, cause, "why")
        for one in (store, Storage(url).open("demo")):
            trial = one.trial("search", number)
            assert (trial.state, trial.cause, trial.message) == (state, cause, "why")
            assert trial.finished is not None
            assert trial.scores == (score(),)
        stored = Storage(url).open("demo").studies["search"].get_trials()[number]
        assert stored.state == optuna_state
        assert stored.values == ([0.9, 100.0] if state == "complete" else None)

    def test_a_trial_that_waits_at_a_rung_is_paused_and_may_go_on(self, store: StudyStore, url: str) -> None:
        number, _ = begin(store)
        store.report("search", number, score(10))
        other = Storage(url)
        trial_id = store._id("search", number)
        seen = []
        for paused in (None, True, False):
            if paused is not None:
                store.storage.optuna.set_trial_user_attr(trial_id, "paused", paused)
            (trial,) = StudyStore(other, "demo").trials()
            seen.append((trial.state, trial.is_settled, trial.has_paused))
        store.finish("search", number, "partial")
        (trial,) = StudyStore(other, "demo").trials()
        seen.append((trial.state, trial.is_settled, trial.has_paused))
        assert seen == [
            ("running", False, False), ("paused", False, True), ("running", False, True), ("partial", True, True),
        ]  # fmt: skip

    def test_what_is_measured_of_limits_is_kept_and_told_to_samplers(self, store: StudyStore, url: str) -> None:
        number, _ = begin(store)
        resumed = StudyStore(Storage(url), "demo")  # whose driver has asked for nothing yet
        resumed.constrain(number, {"latency_ms": 0.25})
        resumed.constrain(number, {"latency_ms": 0.5, "peak_memory_bytes": -0.1})
        kept = {"predicted trainable_params": -0.5, "measured latency_ms": 0.25, "measured peak_memory_bytes": -0.1}
        for study in (resumed._sampled, StudyStore(Storage(url), "demo").studies["search"]):
            assert study is not None
            assert study.get_trials()[number].constraints == kept

    def test_references_and_finalists_stand_apart(self, store: StudyStore, url: str) -> None:
        head = candidate_of("head")
        assert [store.add("references", head, None, 0, "head"), store.add("finalists", head, COST, 3, "5")] == [0, 0]
        store.report("finalists", 0, score(seed=3))
        store.report("finalists", 0, score(split="test", seed=3))
        store.finish("finalists", 0, "complete")
        again = Storage(url).open("demo")
        assert again.trials() == []
        assert [(one.origin, one.state) for one in again.trials("references")] == [("head", "running")]
        final = again.trial("finalists", 0)
        assert (final.origin, final.seed, final.state, final.test) == ("5", 3, "complete", score(split="test", seed=3))
        assert final.scores == (score(seed=3),)

    def test_an_unknown_trial_is_told(self, store: StudyStore) -> None:
        for number in (0, -1, 10**9):
            with pytest.raises(StudyNotFoundError, match=f"study 'demo' has no trial {number} in search"):
                store.trial("search", number)

    def test_notes_are_kept_and_read_afresh(self, store: StudyStore, url: str) -> None:
        other = Storage(url).open("demo")
        assert store.noted("stop") is None
        other.note("stop", True)
        assert store.noted("stop") is True
        store.note("environment", {"python": "3.11", "list": [1, None]})
        assert other.noted("environment") == {"python": "3.11", "list": [1, None]}

    def test_a_resumed_study_draws_what_the_uninterrupted_one_would(self, storage: Storage, url: str) -> None:
        tpe = {"search": {"sampler": "tpe", "startup_trials": 2}}
        through, resumed = storage.create(spec_of("through", **tpe)), storage.create(spec_of("resumed", **tpe))
        drawn: dict[str, list[str]] = {"through": [], "resumed": []}
        for index in range(6):
            if index == 4:
                resumed = Storage(url).open("resumed")
            for store in (through, resumed):
                number, candidate = begin(store)
                store.report("search", number, score(accuracy=0.5 + index / 20))
                store.finish("search", number, "complete")
                drawn[store.name].append(candidate.sha256)
        assert drawn["through"] == drawn["resumed"]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with its tables and nothing in them: making one takes longer than most tests."""
    path = tmp_path_factory.mktemp("storage") / "empty.db"
    Storage(f"sqlite:///{path}").optuna.remove_session()
    return path


@pytest.fixture
def url(empty: Path, tmp_path: Path) -> str:
    for suffix in ("", "-wal", "-shm"):
        if (source := Path(f"{empty}{suffix}")).exists():
            shutil.copy(source, tmp_path / f"study.db{suffix}")
    return f"sqlite:///{tmp_path / 'study.db'}"


class TestSqlite(StorageContract):
    pass


class _KilledError(BaseException):
    """What a driver sees of the signal that ends it."""


def life(storage: Storage) -> Iterator[Callable[[], object]]:
    """Yield the calls of a driver, one after another: a trial of the search, and a finalist."""
    yield lambda: storage.create(spec_of())
    store = storage.open("demo")
    yield lambda: begin(store, SPACE.usual())
    yield lambda: store.report("search", 0, score(10))
    yield lambda: store.report("search", 0, score(90))
    yield lambda: store.finish("search", 0, "complete")
    yield lambda: store.add("finalists", SPACE.usual(), COST, 1, "0")
    yield lambda: store.report("finalists", 0, score(90))
    yield lambda: store.finish("finalists", 0, "complete")


def live_until_killed(url: str, writes: int) -> bool:
    """Live, and die at the commit of a write. Returns whether the life was over before."""
    storage, left, dirty = Storage(url), writes, False
    engine = storage.optuna._backend.engine  # type: ignore[attr-defined]

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal dirty
        dirty = dirty or statement.startswith(("INSERT", "UPDATE", "DELETE"))

    def count(_connection: object) -> None:
        nonlocal left, dirty
        left, dirty = left - dirty, False
        if left < 0:
            raise _KilledError

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", count)
    try:
        for call in life(storage):
            call()
    except _KilledError:
        return False
    finally:
        engine.dispose()
    return True


def resume(url: str) -> StudyStore:
    """Do what a new driver does with what it finds."""
    store = Storage(url).create(spec_of())
    store.abandon_unstarted()
    for phase in PHASES:
        for trial in store.trials(phase):
            if trial.state == "running":
                store.report(phase, trial.number, score(90))
                store.finish(phase, trial.number, "complete")
    return store


def test_killed_at_any_write_nothing_stays_behind(empty: Path, tmp_path: Path) -> None:
    """Every trial is settled by whoever comes next, and the study goes on as any other."""
    for writes in range(200):
        (tmp_path / str(writes)).mkdir()
        shutil.copy(empty, tmp_path / str(writes) / "study.db")
        url = f"sqlite:///{tmp_path / str(writes) / 'study.db'}"
        over = live_until_killed(url, writes)
        store = resume(url)

        for phase in PHASES:
            stored = store.studies[phase].get_trials()
            assert all(one.state.is_finished() for one in stored), (writes, phase)
            assert [one.number for one in stored] == list(range(len(stored)))
            assert all(one.state != "running" for one in store.trials(phase))
            complete = [one for one in store.trials(phase) if one.state == "complete"]
            assert all(one.score is not None and one.score.full for one in complete)
        number, _ = begin(store)
        store.report("search", number, score(90))
        store.finish("search", number, "complete")
        assert Storage(url).open("demo").trial("search", number).state == "complete"
        store.storage.optuna._backend.engine.dispose()  # type: ignore[attr-defined]
        if over:
            break
    assert over
    assert writes > 10


def test_trials_queued_by_others_are_settled_and_not_drawn(url: str) -> None:
    store = Storage(url).create(spec_of())
    store.studies["search"].ask()
    again = Storage(url).create(spec_of())
    assert again.abandon_unstarted() == 1
    assert again.trials() == []
    number, _ = begin(again)
    assert number == 1


def test_optunas_own_tools_read_it(url: str) -> None:
    import optuna

    store = Storage(url).create(spec_of())
    number, candidate = begin(store)
    store.report("search", number, score())
    store.finish("search", number, "complete")
    study = optuna.load_study(study_name="demo", storage=url)
    assert [trial.values for trial in study.best_trials] == [[0.9, 100.0]]
    assert study.trials[number].params.keys() == SPACE.encode(candidate).keys()
