"""A study of two tasks, from its file to an export: trained, scored on each and on their mean, searched, reloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from evaluators.exported import load_exported, read_about
from evaluators.score import METRICS
from orchestrator.export.folder import Export, export
from orchestrator.front import Front
from orchestrator.home import Home
from orchestrator.recorder import Recorder
from orchestrator.spec import parse
from orchestrator.storage import StudyStore
from orchestrator.study import run_study
from search_space.carrying import is_per_task
from search_space.errors import SpecError
from tests.evaluators.tiny import tiny_folder
from tests.evaluators.two_tasks import LENGTHS, task_of
from tests.orchestrator import in_process
from tests.orchestrator.in_process import Watched, spec_of, store_of

METHODS: dict[str, Any] = {"lora": {"r": [1, 2], "per_task": [False, True]}, "mtl_lora": {"r": [1]}, "poly": {"r": [1]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyStore, Home, Front]:
    """Six candidates of six steps on a tiny BERT, two objectives, one of them the quality on one of the tasks."""
    folder = tmp_path_factory.mktemp("study")
    spec = parse(
        {
            "name": "two-tasks",
            "model": {"name": str(tiny_folder(folder / "model")), "dtype": "float32", "device": "cpu"},
            "task": task_of(folder).model_dump(mode="json", exclude_none=True),
            "space": {"methods": METHODS, "hybrids": ["lora + bitfit"]},
            "objectives": [{"maximize": "accuracy"}, {"minimize": "nll/length"}, {"minimize": "trainable_params"}],
            "budgets": {"trials": 6, "trainable_params": 1500},
            "search": {
                "sampler": "random",
                "finalists": {"count": 1, "seeds": 2},
                "references": ["head"],
                "early_stopping": {"rungs": 2, "grace": 3},
            },
            "training": {"steps": 6, "batch_size": 8, "max_length": 16},
            "calibration": {"floor_draws": 100, "folds": 2, "scarce": 0, "predictors": ["seeds", "laplace"]},
        }
    )
    assert parse(spec.to_json()) == spec
    with pytest.MonkeyPatch.context() as patch:
        in_process.forget_settings(patch)
        in_process.in_this_process(patch)
        home = Home(folder / "home").create()
        store = store_of(home, spec)
        return store, home, run_study(store, home, Watched())


def test_their_memory_was_predicted_and_kept_for_the_next_study(finished: tuple[StudyStore, Home, Front]) -> None:
    store, home, _ = finished
    assert all(one.cost is not None and one.cost.peak_memory_bytes for one in store.trials())
    assert list(home.tables().rglob("*.json"))


def test_candidates_of_every_kind_of_sharing_were_trained(finished: tuple[StudyStore, Home, Front]) -> None:
    store, _, front = finished
    trials = [one for one in store.trials() if one.score is not None]
    assert len(trials) == 6
    assert not [one.message for one in store.trials() if one.state == "failed"]
    assert {is_per_task(part) for one in trials for part in one.candidate.parts} == {False, True}
    assert front.members
    for trial in trials:
        assert trial.cost is not None
        assert trial.score is not None
        assert trial.cost.trainable_params == trial.score["trainable_params"] <= 1500
        assert trial.score["accuracy"] == pytest.approx(
            (trial.score["accuracy/kind"] + trial.score["accuracy/length"]) / 2
        )


def test_the_front_knows_each_task(finished: tuple[StudyStore, Home, Front]) -> None:
    _, _, front = finished
    assert [name for one in front.to_json()["objectives"] for name in one.values()][1] == "nll/length"
    row = front.rows()[0]
    assert {"accuracy", "accuracy/kind", "accuracy/length", "test_accuracy/length_mean"} <= row.keys()
    again = [member for member in front.members if member.finalists]
    assert again
    assert {"accuracy", "accuracy/kind", "calibrated_nll/length"} <= again[0].test.keys()
    assert METRICS["accuracy/kind"].direction == "maximize"


def test_finalists_predict_together_for_each_task(finished: tuple[StudyStore, Home, Front]) -> None:
    store, _, _ = finished
    points = {one["kind"]: one for one in store.noted("predictors")}
    assert set(points) == {"single", "seeds"}, "Laplace is for one task"
    for split in ("validation", "test"):
        values = points["seeds"][split]
        assert values["accuracy"] == pytest.approx((values["accuracy/kind"] + values["accuracy/length"]) / 2)
    assert {"calibrated_ece", "calibrated_ece/kind", "calibrated_nll/length"} <= points["seeds"]["test"].keys()


def test_an_export_reloads_for_each_task(finished: tuple[StudyStore, Home, Front], tmp_path: Path) -> None:
    store, home, _ = finished
    numbers = {is_per_task(one.candidate.parts[0]): one.number for one in store.trials() if one.state == "complete"}
    for number in numbers.values():
        made: Export = export(store, home, number, tmp_path / str(number))
        assert made.difference <= 1e-5
        assert [one["name"] for one in read_about(made.folder)["tasks"]] == ["kind", "length"]
        card = (made.folder / "README.md").read_text()
        assert 'task="kind"' in card
        assert "classified right, on length" in card
        predictor = load_exported(made.folder, task="length")
        assert predictor.classes == LENGTHS
        found = predictor.probabilities(["who was the first man of the city", "when"])
        assert np.allclose(found.sum(axis=1), 1.0)
        assert {"kind.conformal.json", "length.conformal.json"} <= {path.name for path in made.folder.iterdir()}
        document = json.loads((made.folder / "calibration.json").read_text())
        assert [one["name"] for one in document["tasks"]] == ["kind", "length"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": {"tasks": {"a": "builtin:trec"}}}, "task.tasks"),
        ({"task": {"tasks": {"a": "builtin:trec", "b/c": "builtin:movie"}}}, "task.tasks"),
        ({"task": {"tasks": {"a": "builtin:trec", "b": "builtin:film"}}}, "builtin:film"),
        ({"task": {"tasks": {"a": "builtin:trec", "b": {"dataset": "x", "lable": "y"}}}}, "did you mean 'label'"),
        (
            {"task": {"dataset": "x", "tasks": {"a": "builtin:trec", "b": "builtin:movie"}}},
            "belongs to each of `tasks`",
        ),
        ({"task": "builtin:trec", "objectives": [{"maximize": "accuracy/trec"}]}, "the study's tasks are"),
        (
            {
                "task": {"tasks": {"trec": "builtin:trec", "film": "builtin:movie"}},
                "objectives": [{"maximize": "accuracy/trek"}],
            },
            "did you mean 'trec'",
        ),
        ({"objectives": [{"minimize": "trainable_params/trec"}]}, "there is no metric 'trainable_params/trec'"),
    ],
)
def test_bad_tasks_are_refused_with_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec_of("bad", **given)
    assert message in str(refused.value)


def test_mlflow_holds_the_scores_of_each_task_and_says_so_twice_alike(
    finished: tuple[StudyStore, Home, Front], tmp_path: Path
) -> None:
    """Metrics of a task have a slash in their names; MLflow makes folders of it, and gives them back as they were."""
    store, _, _ = finished
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = Recorder(uri, tmp_path / "artifacts", store).record_all()
    assert (first.waiting, first.problem) == (0, "")
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("paretune/two-tasks")
    runs = {run.data.tags["paretune.trial"]: run for run in client.search_runs([experiment.experiment_id])}
    for trial in store.trials():
        kept = runs[trial.key].data.metrics
        for name in ("accuracy", "accuracy/kind", "accuracy/length", "nll/length"):
            assert kept[f"validation_{name}"] == pytest.approx(trial.score[name]), name
    again = next(one for one in store.trials("finalists") if one.test is not None)
    assert runs[again.key].data.metrics["test_accuracy/length"] == pytest.approx(again.test["accuracy/length"])
    assert Recorder(uri, tmp_path / "artifacts", store).record_all().created == 0
