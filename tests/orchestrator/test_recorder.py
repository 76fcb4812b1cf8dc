"""The record in MLflow: complete, once, whatever dies in between and whatever does not answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import shutil
import sqlite3
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator import recorder as module
from orchestrator.front import front_of_study
from orchestrator.projection import STUDY_KEY, run_of, run_of_study, span_of
from orchestrator.recorder import Recorder
from orchestrator.storage import Storage, StudyStore
from orchestrator.study_file import read_text
from orchestrator.trial import PHASES
from tests.orchestrator.made_up import (
    BACKBONE,
    STARTED,
    enter,
    make_finalist,
    make_score,
    make_spec,
    make_trial,
    plausible,
)

FILES = {"study.yaml", "study.json", "environment.json", "pareto.json", "pareto.csv", "pareto.html", "pareto.png"}


def make_store(folder: Path, name: str = "demo", count: int = 5, most: int | None = None) -> StudyStore:
    store = Storage(f"sqlite:///{folder}/paretune.db").create(make_spec(name, budgets={"trainable_params": "1%"}))
    store.note("backbone", {"parameters": BACKBONE})
    store.note("reference_point", {"accuracy": 1 / 6, "trainable_params": 227_132.0})
    store.note("environment", {"python": "3.11"})
    store.note("status", "complete")
    trials, references, finalists = plausible(3, count)
    over = make_trial(count, None, state="infeasible", message="over trainable_params")
    broken = make_trial(count + 1, None, state="failed", cause="diverged", message="loss is NaN")
    for trial in (*trials, over, broken, references[0], *finalists[:2])[:most]:
        enter(store, trial)
    return store


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """MLflow's migrations take seconds: they run once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("study"))


@pytest.fixture(autouse=True, scope="module")
def quick_figures():
    """The figures have tests of their own."""
    from orchestrator import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "pareto_files", lambda *_: {name: b"x" for name in FILES if name.startswith("pareto.")})
        yield


def rows(uri: str, name: str = "demo") -> dict[str, object]:
    """All runs of a study by key; two of one key are an error."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(f"paretune/{name}")
    runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    keys = [run.data.tags["paretune.trial"] for run in runs]
    assert len(set(keys)) == len(keys), "a run stands twice"
    return dict(zip(keys, runs, strict=True))


def seen(uri: str, name: str = "demo") -> dict[str, object]:
    """Everything of a record that must be the same each time it is made."""
    points: dict[str, list[tuple]] = {}
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        for run_id, *point in connection.execute("SELECT run_uuid, key, step, value, timestamp FROM metrics"):
            points.setdefault(run_id, []).append(tuple(point))
    found = {}
    for key, run in rows(uri, name).items():
        tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"}
        info = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
        found[key] = (*info, tags, run.data.params, sorted(points.get(run.info.run_id, [])))
    return found


def parent_id(uri: str) -> str:
    return rows(uri)[STUDY_KEY].info.run_id


def artifacts(uri: str) -> set[str]:
    return {one.path for one in MlflowClient(tracking_uri=uri).list_artifacts(parent_id(uri))}


def record(uri: str, store: StudyStore, tmp_path: Path) -> module.Recorded:
    return Recorder(uri, tmp_path / "artifacts", store).record_all()


def test_every_trial_of_every_phase_is_a_child_of_the_study(uri, store, tmp_path):
    result = record(uri, store, tmp_path)
    found = rows(uri)
    trials = [one for phase in PHASES for one in store.trials(phase)]
    assert found.keys() == {STUDY_KEY, *(one.key for one in trials)}
    assert (result.runs, result.created, result.waiting, result.problem) == (len(found), len(found), 0, "")
    children = [run for key, run in found.items() if key != STUDY_KEY]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent_id(uri)}
    assert {run.data.tags["paretune.study"] for run in found.values()} == {"demo"}


def test_a_run_says_what_the_trial_was(uri, store, tmp_path):
    record(uri, store, tmp_path)
    found = rows(uri)
    front = front_of_study(store)
    member = front.members[-1]
    run = found[f"search/{member.number}"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["pareto"] == "front"
    assert run.data.params["method"] == member.trial.candidate.method
    part = member.trial.candidate.parts[0]
    assert run.data.params[f"{part.method}.placement"] == str(part.placement)
    assert float(run.data.params[f"{part.method}.learning_rate"]) == member.trial.candidate.recipe.learning_rates[0]
    assert run.data.metrics["validation_accuracy"] == member.values["accuracy"]
    history = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "validation_accuracy")
    assert [point.step for point in history] == [score.step for score in member.trial.scores]
    assert [point.value for point in history] == [score["accuracy"] for score in member.trial.scores]


def test_tags_and_states(uri, store, tmp_path):
    record(uri, store, tmp_path)
    found = rows(uri)
    front = front_of_study(store)
    assert {
        int(key[7:]): run.data.tags["pareto"] for key, run in found.items() if key.startswith("search/")
    } == front.tags
    assert found["references/0"].data.tags["pareto"] == "reference"
    assert found["finalists/0"].data.tags["pareto"] == "finalist"
    failed = next(run for run in found.values() if run.data.tags.get("pareto") == "failed")
    assert (failed.info.status, failed.data.tags["paretune.cause"]) == ("FAILED", "diverged")
    assert found[STUDY_KEY].info.status == "FINISHED"
    assert "test_accuracy" in found["finalists/0"].data.metrics
    assert not any(
        name.startswith("test_") for key, run in found.items() if "search" in key for name in run.data.metrics
    )


def test_the_study_carries_its_spec_its_front_and_its_files(uri, store, tmp_path):
    record(uri, store, tmp_path)
    front = front_of_study(store)
    run = rows(uri)[STUDY_KEY]
    assert artifacts(uri) == FILES
    assert run.data.tags["paretune.pick"] == str(front.pick.number)
    assert front.pick.reason[1:] in run.data.tags["mlflow.note.content"]
    client = MlflowClient(tracking_uri=uri)
    history = client.get_metric_history(run.info.run_id, "hypervolume")
    assert [(point.step, point.value) for point in history] == list(front.history)
    text = Path(client.download_artifacts(run.info.run_id, "study.yaml", str(tmp_path))).read_text()
    assert read_text(text) == store.spec
    assert (tmp_path / "artifacts" / "demo").is_dir(), "artifacts of a database are kept in the home"


def test_recording_again_changes_nothing(uri, store, tmp_path):
    record(uri, store, tmp_path)
    before = seen(uri)
    result = record(uri, store, tmp_path)
    assert result.created == 0
    assert seen(uri) == before


def test_a_deleted_database_is_rebuilt_equal_and_once(uri, store, tmp_path, empty_database):
    record(uri, store, tmp_path)
    before = seen(uri)
    other = tmp_path / "again"
    other.mkdir()
    shutil.copy(empty_database, other / "mlflow.db")
    again = f"sqlite:///{other}/mlflow.db"
    record(again, store, other)
    record(again, store, other)
    assert seen(again) == before


class Killed(BaseException):
    """The process dies here."""


class Mortal:
    """A client that dies at the n-th call: before it, or when it is done and nobody has heard of it."""

    def __init__(self, client, at: int, late: bool) -> None:
        self._client, self._at, self._late, self.calls = client, at, late, 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self._at and not self._late:
                raise Killed
            result = getattr(self._client, name)(*args, **kwargs)
            if self.calls == self._at:
                raise Killed
            return result

        return call


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("small"), count=2, most=2)


def attempt(monkeypatch, store: StudyStore, folder: Path, database: Path, at: int, late: bool) -> tuple[str, int]:
    """Record into a database of its own, and die at a call. Returns its URI, and how many calls there were."""
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    mortal = Mortal(MlflowClient(tracking_uri=uri), at, late)
    monkeypatch.setattr(module, "MlflowClient", lambda **_: mortal)
    with contextlib.suppress(Killed):
        Recorder(uri, folder / "artifacts", store).record_all()
    monkeypatch.setattr(module, "MlflowClient", MlflowClient)
    return uri, mortal.calls


def test_killed_between_any_two_calls_nothing_doubles_and_nothing_is_missing(
    small, tmp_path, empty_database, monkeypatch
):
    uri, calls = attempt(monkeypatch, small, tmp_path / "whole", empty_database, 0, False)
    expected = seen(uri)
    assert calls > 10
    for at, late in itertools.product(range(1, calls + 1), (False, True)):
        folder = tmp_path / f"{at}-{late}"
        uri, _ = attempt(monkeypatch, small, folder, empty_database, at, late)
        Recorder(uri, folder / "artifacts", small).record_all()
        assert seen(uri) == expected, f"killed {'after' if late else 'before'} call {at} of {calls}"
        assert artifacts(uri) == FILES


@pytest.mark.parametrize("state", ["running", "paused"])
def test_metrics_of_a_trial_wait_until_it_is_settled(uri, store, tmp_path, state):
    recorder = Recorder(uri, tmp_path / "artifacts", store)
    done = make_trial(50, {"accuracy": 0.7, "trainable_params": 10.0})
    recorder.record_trial(replace(done, state=state, finished=None))
    run = rows(uri)["search/50"]
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
    assert "pareto" not in run.data.tags
    recorder.record_trial(done, "dominated")
    run = rows(uri)["search/50"]
    assert (run.info.status, run.data.metrics["validation_accuracy"]) == ("FINISHED", 0.7)
    assert run.data.tags["pareto"] == "dominated"


def test_a_paused_trial_is_not_tagged_before_it_is_settled(uri, tmp_path):
    store = make_store(tmp_path, "waiting", 0)
    early = (make_score({"accuracy": 0.4, "trainable_params": 10.0}, step=10),)
    number = enter(store, make_trial(0, None, scores=early, state="paused"))
    record(uri, store, tmp_path)
    run = rows(uri, "waiting")[f"search/{number}"]
    assert run.info.status == "RUNNING"
    assert "pareto" not in run.data.tags
    store.finish("search", number, "partial")
    record(uri, store, tmp_path)
    run = rows(uri, "waiting")[f"search/{number}"]
    assert (run.info.status, run.data.tags["pareto"]) == ("KILLED", "partial")


def test_a_moving_front_retags_what_changed_and_nothing_else(uri, tmp_path):
    store = make_store(tmp_path, "moving", 0)
    first, second = ({"accuracy": 0.5 + 0.1 * n, "trainable_params": 100.0} for n in range(2))
    recorder = Recorder(uri, tmp_path / "artifacts", store)
    numbers = []
    for values in (first, second):
        numbers.append(enter(store, make_trial(len(numbers), values)))
        front = front_of_study(store)
        recorder.record_trial(store.trial("search", numbers[-1]), front.tags[numbers[-1]])
        recorder.record_study(front)
    found = rows(uri, "moving")
    assert [found[f"search/{number}"].data.tags["pareto"] for number in numbers] == ["dominated", "front"]
    spy = Spy(recorder._client)
    recorder._ledger._client = spy
    recorder.record_study(front_of_study(store))
    assert spy.names == [], "nothing has changed"


class Spy:
    """A client that keeps the names of what is called."""

    def __init__(self, client) -> None:
        self._client, self.names = client, []

    def __getattr__(self, name):
        self.names.append(name)
        return getattr(self._client, name)


def test_a_finished_trial_takes_three_calls(uri, store, tmp_path):
    recorder = Recorder(uri, tmp_path / "artifacts", store)
    recorder.record_all()
    spy = recorder._ledger._client = Spy(recorder._client)
    recorder.record_trial(make_trial(60, {"accuracy": 0.7, "trainable_params": 10.0}), "dominated")
    assert spy.names == ["create_run", "log_batch", "set_terminated"]


class Unreachable:
    """A client whose server is away for a while, or answers too late: what was asked for happens all the same."""

    def __init__(self, client, late: bool) -> None:
        self.client, self.late, self.away = client, late, False

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if not self.away:
                return getattr(self.client, name)(*args, **kwargs)
            if self.late:
                getattr(self.client, name)(*args, **kwargs)
            raise MlflowException("API request failed: connection refused")

        return call


@pytest.mark.parametrize("late", [False, True], ids=["refused", "answer lost"])
def test_a_server_that_is_away_fails_nothing_and_is_caught_up_with(uri, store, tmp_path, monkeypatch, caplog, late):
    server = Unreachable(MlflowClient(tracking_uri=uri), late)
    monkeypatch.setattr(module, "MlflowClient", lambda **_: server)
    recorder = Recorder(uri, tmp_path / "artifacts", store)
    recorder.record_all()
    server.away = True
    with caplog.at_level(logging.WARNING):
        for number in range(70, 73):
            recorder.record_trial(make_trial(number, {"accuracy": 0.7, "trainable_params": 10.0}), "dominated")
            recorder._resume_at = 0.0
    assert [one.getMessage().count("The study goes on") for one in caplog.records] == [1]
    server.away = False
    recorder.record_trial(make_trial(73, {"accuracy": 0.7, "trainable_params": 10.0}), "dominated")
    found = rows(uri)
    for number in range(70, 74):
        assert found[f"search/{number}"].info.status == "FINISHED"


def test_a_slow_failure_is_not_tried_again_at_once(store, tmp_path, monkeypatch):
    tries = []

    def connect(**_):
        tries.append(time.monotonic())
        time.sleep(0.05)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(module, "MlflowClient", connect)
    recorder = Recorder("http://192.0.2.1:5000", tmp_path, store)
    for number in range(5):
        recorder.record_trial(make_trial(number, {"accuracy": 0.7}))
    assert len(tries) == 1
    result = recorder.record_all()
    assert len(tries) == 2
    assert result.waiting >= 5
    assert "no route to host" in result.problem


def test_nothing_listens_there(store, tmp_path, caplog):
    recorder = Recorder("http://user:secret@127.0.0.1:9", tmp_path, store)
    recorder.record_trial(make_trial(0, {"accuracy": 0.7}))
    assert recorder.record_all().problem
    assert "secret" not in caplog.text


def test_what_mlflow_refuses_stands_in_nobodys_way(uri, store, tmp_path):
    recorder = Recorder(uri, tmp_path / "artifacts", store)
    recorder.record_all()
    trial = make_trial(80, {"accuracy": 0.7, "trainable_params": 10.0})
    recorder._runs["search/80"] = replace(run_of(trial), params={"a\nb": "not a name"})
    recorder.record_trial(make_trial(81, {"accuracy": 0.7, "trainable_params": 10.0}), "front")
    assert list(recorder._refused) == ["search/80"]
    assert rows(uri)["search/81"].info.status == "FINISHED"


def test_a_run_that_somebody_deleted_comes_back(uri, store, tmp_path):
    record(uri, store, tmp_path)
    before = seen(uri)
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(rows(uri)["search/0"].info.run_id)
    client.delete_run(parent_id(uri))
    assert record(uri, store, tmp_path).created == 2
    assert seen(uri) == before
    assert {run.data.tags.get("mlflow.parentRunId") for run in rows(uri).values()} == {None, parent_id(uri)}


def test_a_deleted_experiment_comes_back(uri, store, tmp_path):
    record(uri, store, tmp_path)
    before = seen(uri)
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("paretune/demo").experiment_id)
    record(uri, store, tmp_path)
    assert seen(uri) == before


def test_two_studies_of_one_name_on_one_server_stay_apart(uri, store, tmp_path):
    record(uri, store, tmp_path)
    other = make_store(tmp_path, count=1)
    result = record(uri, other, tmp_path)
    assert result.created == result.runs
    assert len(rows_by_identity(uri)) == 2


def rows_by_identity(uri: str) -> dict[str, int]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("paretune/demo")
    counts: dict[str, int] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        identity = run.data.tags["paretune.identity"]
        counts[identity] = counts.get(identity, 0) + 1
    return counts


def test_a_resumed_study_runs_again(uri, tmp_path):
    store = make_store(tmp_path, "resumed", 1)
    record(uri, store, tmp_path)
    store.note("status", "running")
    recorder = Recorder(uri, tmp_path / "artifacts", store)
    recorder.record_study(front_of_study(store))
    assert rows(uri, "resumed")[STUDY_KEY].info.status == "RUNNING"
    store.note("status", "stopped")
    recorder.record_study(front_of_study(store))
    assert rows(uri, "resumed")[STUDY_KEY].info.status == "KILLED"


def test_the_database_writes_ahead_and_the_environment_is_left_alone(uri, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    record(uri, store, tmp_path)
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert "0" * 32 not in {run.info.run_id for run in rows(uri).values()}


def test_no_telemetry():
    import os

    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_the_second_use_of_a_method_has_params_of_its_own():
    from search_space.notation import parse

    trial = make_trial(0, {"accuracy": 0.5}, candidate=parse("lora(r=4) + lora(r=8)@mlp | lr=0.001/0.002"))
    params = run_of(trial).params
    assert (params["lora.r"], params["lora.2.r"]) == ("4", "8")
    assert (params["lora.learning_rate"], params["lora.2.learning_rate"]) == ("0.001", "0.002")


def test_costs_are_written_where_they_change_and_quality_at_every_rung():
    scores = tuple(
        make_score({"accuracy": 0.5, "trainable_params": 10.0, "latency_ms": latency}, step)
        for step, latency in ((10, 3.0), (30, 3.0), (90, 4.0))
    )
    points = run_of(make_trial(0, None, scores=scores)).points
    steps = {name: [point.step for point in points if point.name == name] for name in {point.name for point in points}}
    assert steps == {
        "validation_accuracy": [10, 30, 90], "fidelity": [10, 30, 90], "trainable_params": [10], "latency_ms": [10, 90],
    }  # fmt: skip


def test_times_are_those_of_the_storage():
    run = run_of(make_trial(0, {"accuracy": 0.5}))
    assert run.started_ms == int(STARTED.timestamp() * 1000)
    assert run.finished_ms == int((STARTED + timedelta(seconds=8)).timestamp() * 1000)
    assert all(run.started_ms <= point.time_ms <= run.finished_ms for point in run.points)
    assert run_of(make_trial(0, {"accuracy": 0.5}, started=None, finished=None)).started_ms == 0


def test_an_interrupted_trial_was_killed():
    assert run_of(make_trial(0, None, state="failed", cause="interrupted")).status == "KILLED"
    assert run_of(make_finalist(0, 3, {"accuracy": 0.5}, state="failed", cause="raised")).tags["pareto"] == "failed"


def test_a_study_without_a_front_has_a_run_all_the_same():
    run = run_of_study(make_spec(), None, None, span_of([]))
    assert (run.status, run.tags) == ("RUNNING", {"paretune.trial": STUDY_KEY})
    assert json.loads(json.dumps(dict(run.params)))["objectives"] == "maximize accuracy, minimize trainable_params"


def test_long_texts_are_cut():
    run = run_of(make_trial(0, None, state="failed", cause="raised", message="x" * 10_000))
    assert len(run.tags["paretune.message"]) == 5_000
