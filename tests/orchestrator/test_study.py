"""The life of a study: budgets, early stopping, references, finalists, stops and resumes; and, with Ray, faults.

All but the last part runs in one process. The last part is one study on real actors, whose candidates raise, diverge,
run out of memory, die and hang.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import preparation, search_work, study
from orchestrator.front import Front
from orchestrator.home import Home
from orchestrator.samplers import build_sampler
from orchestrator.spec import ResourcesSpec
from orchestrator.storage import StudyStore
from orchestrator.study import run_study
from orchestrator.trial import Trial
from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, SpecError, StudyLockedError
from search_space.notation import parse as candidate_of
from tests.orchestrator import in_process
from tests.orchestrator.in_process import METHODS, Watched, spec_of, store_of

FAULTS = {"vera": "raise", "ia3": "nan", "bitfit": "oom", "ln_tuning": "exit", "serial_adapter": "hang"}
Finished = tuple[StudyStore, Front, Watched]
CAUSES = {"raise": "raised", "nan": "diverged", "oom": "out_of_memory", "exit": "crashed", "hang": "timeout"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One home for all studies here: making its databases takes longer than a study."""
    with pytest.MonkeyPatch.context() as patch:
        in_process.forget_settings(patch)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield Home(tmp_path_factory.mktemp("home")).create()


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_process.in_this_process(monkeypatch)
    monkeypatch.setattr(search_work, "_MOST_REJECTED", 40)


def run(home: Home, name: str, watched: Watched | None = None, **given: Any) -> tuple[StudyStore, Front]:
    store = store_of(home, spec_of(name, **given))
    return store, run_study(store, home, watched or Watched())


def trained(store: StudyStore) -> list[Trial]:
    return [one for one in store.trials() if one.state != "infeasible"]


@pytest.mark.usefixtures("one_process")
class TestSearch:
    def test_it_trains_what_it_may_and_says_that_it_is_complete(self, home: Home) -> None:
        watched = Watched()
        store, front = run(home, "plain", watched)
        assert store.noted("status") == "complete"
        assert len(trained(store)) == 12
        assert {one.state for one in store.trials()} <= {"complete", "partial", "infeasible"}
        assert watched.phases == [("search", 14), ("finalists", 4)]
        assert front.members

    def test_the_first_trial_is_plain_lora(self, home: Home) -> None:
        store, _ = run(home, "first", budgets={"trials": 1})
        assert store.trial("search", 0).candidate == candidate_of("lora")

    def test_early_stopping_saves_steps(self, home: Home) -> None:
        store, _ = run(home, "halved", budgets={"trials": 20})
        states = Counter(one.state for one in trained(store))
        assert states["partial"] >= 2
        assert {one.steps for one in trained(store)} <= {10, 30, 90}
        assert all(one.message == "stopped at its rung" for one in store.trials() if one.state == "partial")

    def test_references_are_trained_once_to_the_end(self, home: Home) -> None:
        store, _ = run(home, "references", budgets={"trials": 2})
        references = store.trials("references")
        assert [one.origin for one in references] == ["head", "full"]
        assert all((one.state, one.steps) == ("complete", 90) for one in references)
        assert [one.candidate for one in references] == [candidate_of("head"), candidate_of("full")]

    def test_finalists_have_fresh_seeds_and_the_test_split(self, home: Home) -> None:
        store, front = run(home, "finalists")
        finalists = store.trials("finalists")
        assert Counter(one.origin for one in finalists) == dict.fromkeys({one.origin for one in finalists}, 2)
        assert {one.seed for one in finalists} == {1, 2}
        assert all(one.test is not None and one.test.split == "test" for one in finalists)
        assert all(one.test is None for phase in ("search", "references") for one in store.trials(phase))
        assert {int(one.origin) for one in finalists} <= {one.number for one in (*front.members, *front.neighbours)}
        assert all(store.trial("search", int(one.origin)).candidate == one.candidate for one in finalists)

    def test_seeds_of_a_finalist_may_be_trained_in_one_trial(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        crews, run_crew = [], in_process.run_crew

        def counted(works: Any, evaluator: Any, job: Any) -> None:
            crews.append(len(job.crew))
            run_crew(works, evaluator, job)

        monkeypatch.setattr(in_process, "run_crew", counted)
        space = {"methods": {name: METHODS[name] for name in ("ia3", "bitfit", "vera")}, "hybrids": []}
        together, _ = run(home, "together", resources={"together": 2}, space=space)
        alone, _ = run(home, "alone", space=space)
        assert crews == [2, 2]
        assert [(one.origin, one.seed, one.state, one.scores, one.test) for one in together.trials("finalists")] == [
            (one.origin, one.seed, one.state, one.scores, one.test) for one in alone.trials("finalists")
        ]

    def test_no_finalists_where_none_are_wanted(self, home: Home) -> None:
        store, _ = run(home, "none", search={"finalists": {"count": 0}})
        assert store.trials("finalists") == []

    def test_no_candidate_is_trained_twice(self, home: Home) -> None:
        ia3 = {"projections": "linear", "layers": ["all", "top:1"], "learning_rate": 1e-2}
        space = {"methods": {"ia3": ia3}, "hybrids": []}
        store, _ = run(home, "small", space=space, budgets={"trials": 10})
        assert len(trained(store)) == 2
        assert len({one.candidate.sha256 for one in trained(store)}) == 2
        rejected = [one.message for one in store.trials() if one.state == "infeasible"]
        assert all("the same candidate as trial" in message for message in rejected)

    def test_faults_are_results_and_the_study_goes_on(self, home: Home) -> None:
        faults = {"vera": "raise", "ia3": "nan", "bitfit": "oom"}
        store, _ = run(home, "faulty", synthetic={"faults": faults}, budgets={"trials": 20})
        for one in trained(store):
            fault = next((faults[part.method] for part in one.candidate.parts if part.method in faults), None)
            assert one.cause == (CAUSES[fault] if fault else None)
            assert (one.state == "failed") == bool(fault)
        assert sum(one.state == "failed" for one in store.trials()) >= 5
        assert store.noted("status") == "complete"


@pytest.mark.usefixtures("one_process")
class TestBudgets:
    def test_over_budget_is_never_trained(self, home: Home) -> None:
        store, front = run(home, "tight", budgets={"trials": 8, "trainable_params": 20_000})
        rejected = [one for one in store.trials() if one.state == "infeasible"]
        assert len(trained(store)) == 8
        assert rejected
        for one in rejected:
            assert one.scores == ()
            assert one.cost is not None
            assert one.cost.trainable_params > 20_000
            assert one.message.startswith("over budget: trainable_params")
        assert all(one.cost is not None and one.cost.trainable_params <= 20_000 for one in trained(store))
        assert all(one.trial.cost.trainable_params <= 20_000 for one in front.members)  # type: ignore[union-attr]

    def test_memory_is_screened_with_its_factor(self, home: Home) -> None:
        store, _ = run(home, "memory", budgets={"trials": 6, "memory": "3MiB", "memory_factor": 2.0})
        foreseen = {one.number: 2.0 * one.cost.values["peak_memory_bytes"] for one in store.trials() if one.cost}
        assert all(foreseen[one.number] <= 3 * 2**20 for one in trained(store))
        assert any(value > 3 * 2**20 for value in foreseen.values())

    def test_the_sampler_learns_what_is_over_budget(self, home: Home) -> None:
        """One in a dozen random candidates fits; a sampler that is not told would need hundreds of draws."""
        budgets = {"trials": 12, "trainable_params": 5000}
        store, _ = run(home, "learning", budgets=budgets, search={"references": [], "finalists": {"count": 0}})
        assert len(trained(store)) == 12
        assert len(store.trials()) < 40

    def test_a_share_is_taken_of_the_backbone(self, home: Home) -> None:
        store, _ = run(home, "share", budgets={"trials": 4, "trainable_params": "0.2%"})
        assert all(one.cost.trainable_params <= 2000 for one in trained(store))  # type: ignore[union-attr]

    def test_nothing_that_fits_is_told_with_the_nearest(self, home: Home) -> None:
        given = {"budgets": {"trainable_params": 5}, "search": {"sampler": "random"}}
        with pytest.raises(
            EmptySpaceError, match=r"no candidate has at most 5 .*; the smallest is ia3.* with 64\. Raise"
        ):
            run(home, "empty", **given)
        assert store_of(home, spec_of("empty", **given)).trials() == []
        assert store_of(home, spec_of("empty", **given)).noted("status") == "failed"

    def test_steps_end_the_search_and_what_stands_beside_it_is_trained(self, home: Home) -> None:
        store, _ = run(home, "steps", budgets={"trials": 100, "steps": 300})
        assert 290 < sum(one.steps for one in trained(store)) <= 300
        assert all(one.state != "running" for one in store.trials())
        assert store.noted("status") == "complete"
        assert {one.state for one in store.trials("references")} == {"complete"}
        assert store.trials("finalists")
        watched = Watched()
        run(home, "steps", watched, budgets={"trials": 100, "steps": 300})
        assert watched.changes == []

    def test_steps_that_pay_for_no_first_rung_are_refused_before_training(self, home: Home) -> None:
        told = r"budgets.steps: 9 training steps .* first rung of one candidate, 10 steps"
        with pytest.raises(SpecError, match=told):
            run(home, "few", budgets={"trials": 100, "steps": 9})
        store, _ = run(home, "enough", budgets={"trials": 100, "steps": 10})
        assert [(one.steps, one.message) for one in trained(store)] == [(10, "the budget of steps is spent")]

    def test_time_ends_the_search(self, home: Home) -> None:
        store, _ = run(home, "time", budgets={"trials": 500, "time": "1s"}, synthetic={"step_seconds": 0.001})
        assert 2 < len(trained(store)) < 100
        assert all(one.state != "running" for one in store.trials())
        assert store.noted("search_seconds") == pytest.approx(1.5, abs=1.0)

    def test_the_time_that_the_cluster_takes_to_start_is_not_the_searchs(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @contextmanager
        def slow(resources: ResourcesSpec) -> Iterator[int]:
            time.sleep(0.6)
            with in_process.cluster(resources) as at_once:
                yield at_once

        monkeypatch.setattr(study, "cluster", slow)
        given = {"synthetic": {"step_seconds": 0.001}, "search": {"references": []}}
        store, _ = run(home, "slowly", budgets={"trials": 2, "time": "0.5s"}, **given)
        assert store.trial("search", 0).state == "complete"

    def test_what_waited_when_the_time_was_spent_is_settled_and_trained_with_more_of_it(self, home: Home) -> None:
        slow = {"synthetic": {"step_seconds": 0.004}, "search": {"finalists": {"count": 0}}}
        store, _ = run(home, "waiting", budgets={"trials": 2, "time": "0.1s"}, **slow)
        assert store.noted("status") == "complete"
        references = store.trials("references")
        told = ("partial", "interrupted", "not started: the budget of time is spent")
        assert [(one.state, one.cause, one.message) for one in references] == [told] * 2
        assert [one.cause for one in store.trials()] == ["interrupted"]

        watched = Watched()
        run(home, "waiting", watched, budgets={"trials": 2, "time": "0.1s"}, **slow)
        assert watched.changes == []

        store, _ = run(home, "waiting", budgets={"trials": 2, "time": "60s"}, **slow)
        rows = [(one.origin, one.state, one.steps) for one in store.trials("references")[2:]]
        assert rows == [("head", "complete", 90), ("full", "complete", 90)]

    def test_what_an_earlier_driver_left_is_settled_when_its_time_is_spent(self, home: Home) -> None:
        given = {"budgets": {"trials": 4, "time": "5s"}, "search": {"finalists": {"count": 0}}}
        store, watched = store_of(home, spec_of("late", **given)), Watched()

        def interrupt(trial: Trial) -> None:
            if trial.phase == "search" and trial.number == 2 and trial.scores:
                os.kill(os.getpid(), signal.SIGINT)

        watched.at_change = interrupt
        run_study(store, home, watched)
        assert [one.key for one in store.trials() if one.state == "running"] == ["search/2"]
        store.note("search_seconds", 5.0)
        again, _ = run(home, "late", **given)
        assert again.noted("status") == "complete"
        left = again.trial("search", 2)
        assert (left.state, left.cause, len(again.trials())) == ("partial", "interrupted", 3)


@pytest.mark.usefixtures("one_process")
class TestSeeds:
    @pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
    def test_the_same_seed_gives_the_same_front(self, home: Home, sampler: str) -> None:
        fronts = []
        for index in (1, 2):
            store, front = run(home, f"{sampler}-{index}", search={"sampler": sampler, "seed": 5})
            fronts.append(([one.number for one in front.members], [one.candidate.sha256 for one in store.trials()]))
        assert fronts[0] == fronts[1]

    def test_another_seed_gives_other_candidates(self, home: Home) -> None:
        studies = [run(home, f"seed-{seed}", search={"seed": seed})[0] for seed in (1, 2)]
        drawn = [{one.candidate.sha256 for one in store.trials()[1:]} for store in studies]
        assert not drawn[0] & drawn[1]


@pytest.mark.usefixtures("one_process")
class TestResume:
    def interrupt_after(self, count: int) -> Watched:
        watched = Watched()

        def interrupt(trial: Trial) -> None:
            settled = {one.key for one in watched.changes if one.phase == "search" and one.finished}
            if len(settled) == count and trial.scores:
                os.kill(os.getpid(), signal.SIGINT)

        watched.at_change = interrupt
        return watched

    def test_an_interrupted_study_goes_on_where_it_was(self, home: Home) -> None:
        handler = signal.getsignal(signal.SIGINT)
        store, _ = run(home, "cut", self.interrupt_after(5))
        assert store.noted("status") == "stopped"
        assert signal.getsignal(signal.SIGINT) == handler
        before = {one.key: one for one in store.trials() if one.state != "running"}
        assert 5 <= len(before) < 12

        watched = Watched()
        again = store_of(home, spec_of("cut"))
        run_study(again, home, watched)
        assert again.noted("status") == "complete"
        assert not {one.key for one in watched.changes} & set(before)
        assert {one.key: one for one in again.trials() if one.key in before} == before

    def test_a_resumed_study_ends_as_the_uninterrupted_one(self, home: Home) -> None:
        run(home, "halting", self.interrupt_after(3))
        resumed, front = run(home, "halting")
        through, whole = run(home, "through")
        assert [one.candidate.sha256 for one in resumed.trials()] == [one.candidate.sha256 for one in through.trials()]
        assert [one.number for one in front.members] == [one.number for one in whole.members]

    def test_a_complete_study_trains_nothing_again(self, home: Home) -> None:
        store, front = run(home, "again")
        before = {phase: store.trials(phase) for phase in ("search", "references", "finalists")}
        watched = Watched()
        again, same = run(home, "again", watched)
        assert watched.changes == []
        assert {phase: again.trials(phase) for phase in before} == before
        assert same.to_json() == front.to_json()

    def test_more_budget_goes_on(self, home: Home) -> None:
        store, _ = run(home, "more", budgets={"trials": 4})
        first = [one.candidate.sha256 for one in trained(store)]
        store, _ = run(home, "more", budgets={"trials": 9})
        assert len(trained(store)) == 9
        assert [one.candidate.sha256 for one in trained(store)][:4] == first

    def test_a_study_that_another_process_drives_is_left_alone(self, home: Home) -> None:
        store = store_of(home, spec_of("driven"))
        with home.drive("driven"), pytest.raises(StudyLockedError):
            run_study(store, home, Watched())
        assert store.noted("status") is None
        assert store.trials() == []

    def test_a_stop_in_the_storage_is_heard(self, home: Home) -> None:
        slow = {"synthetic": {"step_seconds": 0.005}}
        store, watched = store_of(home, spec_of("asked", **slow)), Watched()
        watched.at_change = lambda trial: store.note("stop", True)
        run_study(store_of(home, spec_of("asked", **slow)), home, watched)
        assert store.noted("status") == "stopped"
        assert len(trained(store)) < 12


class TestOnRay:
    """One study whose earlier driver left a candidate of each fault running."""

    @pytest.fixture(scope="class")
    def finished(self, home: Home) -> Finished:
        spec = spec_of(
            "ray",
            space={"methods": {**METHODS, "serial_adapter": {}}, "hybrids": []},
            synthetic={"faults": FAULTS},
            budgets={"trials": 9, "trainable_params": 20_000, "trial_time": "3s"},
            resources={"cpus": 0.5, "concurrency": 2},
            search={"sampler": "random", "seed": 7},
        )
        store = store_of(home, spec)
        for method in FAULTS:
            enter(store, candidate_of(method))
        watched = Watched()
        return store, run_study(store, home, watched), watched

    def test_every_fault_is_classified_and_the_study_completes(self, finished: Finished) -> None:
        store, _, _ = finished
        assert store.noted("status") == "complete"
        left = {one.candidate.method: one for one in store.trials()[: len(FAULTS)]}
        assert {method: one.cause for method, one in left.items()} == {m: CAUSES[fault] for m, fault in FAULTS.items()}
        assert all(one.state == "failed" and one.message for one in left.values())
        assert "longer than 3 s" in left["serial_adapter"].message
        assert "told to raise" in left["vera"].message

    def test_every_trial_is_settled_within_the_budget(self, finished: Finished) -> None:
        store, _, _ = finished
        assert len(trained(store)) == 9
        assert all(
            one.state != "running" for phase in ("search", "references", "finalists") for one in store.trials(phase)
        )
        assert all(one.scores == () for one in store.trials() if one.state == "infeasible")

    def test_what_did_not_fail_is_on_the_front_with_its_finalists(self, finished: Finished) -> None:
        store, front, _ = finished
        assert front.members
        assert all(one.trial.state == "complete" for one in front.members)
        assert all(one.state == "complete" and one.test for one in store.trials("finalists"))
        assert [one.origin for one in store.trials("references")] == ["head", "full"]
        assert front.pick is not None

    def test_the_front_is_written(self, home: Home, finished: Finished) -> None:
        folder = home.study("ray") / "front"
        assert {path.name for path in folder.iterdir()} >= {"pareto.json", "pareto.csv", "pareto.html", "pareto.png"}
        assert json.loads((folder / "pareto.json").read_text())["study"] == "ray"

    def test_it_is_recorded(self, home: Home, finished: Finished) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(home.tracking_uri)
        experiments = [one for one in client.search_experiments() if "ray" in one.name]
        runs = client.search_runs([one.experiment_id for one in experiments], max_results=1000)
        states = Counter(run.data.tags.get("pareto") for run in runs)
        assert states["failed"] >= 5
        assert states["front"] >= 1

    def test_nothing_of_rays_is_left(self, finished: Finished) -> None:
        import ray

        assert not ray.is_initialized()
        assert not list(Path(tempfile.gettempdir()).glob("paretune-ray-*"))

    def test_an_empty_space_is_the_users_error_through_ray_too(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search_work, "_MOST_REJECTED", 10)
        monkeypatch.setattr(preparation, "_require_trainable", lambda *_: None)  # it would say so before
        with pytest.raises(EmptySpaceError, match="the nearest: over budget"):
            run(home, "ray-empty", budgets={"memory": 5}, search={"sampler": "random", "references": []})


class _One:
    """A space of one candidate, for entering it as if it had been drawn."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate

    def encode(self, _candidate: Candidate) -> dict[str, Any]:
        return {}

    def draw(self, _chooser: object) -> Candidate:
        return self.candidate


def enter(store: StudyStore, candidate: Candidate) -> None:
    """Leave a candidate running, as a driver does that is killed."""
    number, _ = store.ask(_One(candidate), build_sampler(store.spec, 0), candidate)  # type: ignore[arg-type]
    store.start(number, candidate, None, 0, {})


@pytest.mark.parametrize("name", ["prefix", "weights"])
def test_what_actors_share_is_gone_before_and_after_a_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "left-by-a-crash").touch()
    with study._without_shared(tmp_path):
        assert not folder.exists()
        folder.mkdir()
        (folder / "one").touch()
    assert not folder.exists()
