"""What finalists can be made into, from the logits that they left: calibrated after averaging, and its cost."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from mlflow.tracking import MlflowClient

from calibration.proper_scores import nll_from_logits
from calibration.sets import fit_sets
from calibration.softmax import log_softmax
from calibration.spec import CalibrationSpec
from calibration.subgroup_temperatures import fit_subgroup_temperatures
from calibration.subgroups import subgroup_scores
from calibration.temperature import fit_temperature
from evaluators.exported import load_exported
from evaluators.predictors import pooled_logits
from evaluators.variants import FinalistLogits, Variant
from orchestrator import study
from orchestrator.export.folder import export
from orchestrator.figures import pareto_figure, pareto_png
from orchestrator.figures.tables import predictors_csv
from orchestrator.front import Front, front_of, front_of_study
from orchestrator.home import Home
from orchestrator.predictors import PredictorPoint, predictor_points
from orchestrator.recorder import Recorder
from orchestrator.spec import parse
from orchestrator.storage import StudyStore
from tests.evaluators.tiny import questions_file, tiny_folder
from tests.orchestrator import in_process
from tests.orchestrator.made_up import make_spec, make_trial
from tests.orchestrator.test_recorder import empty_database, make_store, quick_figures, rows, uri

__all__ = ["empty_database", "quick_figures", "uri"]
ROLES = {"validation": 300, "calibration": 1000, "test": 1000}
SPEC = CalibrationSpec(floor_draws=100)
PREDICTORS = ("seeds", "front", "dropout", "laplace", "laplace_diagonal", "laplace_kronecker")
COSTS = {"checkpoint_bytes": 1000.0, "latency_ms": 2.0, "trainable_params": 100.0}


def leave(folder: Path, seed: int, sure: float = 3.0, masked: bool = False) -> dict[str, np.ndarray]:
    """What a finalist leaves: a truth that all share, seen through noise of its own, three times too sure."""
    truth, noise = np.random.default_rng(0), np.random.default_rng(100 + seed)
    folder.mkdir(parents=True)
    arrays = {}
    for role, count in ROLES.items():
        scores = 1.5 * truth.normal(size=(count, 3))
        arrays[f"{role}_labels"] = (scores + truth.gumbel(size=scores.shape)).argmax(axis=1)
        arrays[f"{role}_logits"] = sure * (scores + 0.7 * noise.normal(size=scores.shape))
        if masked:
            wrong = (arrays[f"{role}_labels"] + 1 + np.arange(count) % 2) % 3
            arrays[f"{role}_logits"][np.arange(count), wrong] = -np.inf
    kept = {name: array for name, array in arrays.items() if not name.startswith("test")}
    safetensors.numpy.save_file(kept, folder / "predictions.safetensors")
    softer = {role: arrays[f"{role}_logits"] / 3 for role in ROLES}
    variants = {"laplace": Variant(softer, 1, 50, 2.5)}
    refused = {"dropout": "trained without it"}
    FinalistLogits(arrays["test_logits"], arrays["test_labels"], variants, refused).save(folder)
    return arrays


def finalist(number: int, origin: int, seed: int) -> Any:
    values = {"accuracy": 0.8, **COSTS}
    return make_trial(number, values, phase="finalists", origin=str(origin), seed=seed)


@pytest.fixture
def front() -> Front:
    """Two members of the front with two seeds each."""
    trials = [
        make_trial(3, {"accuracy": 0.8, **COSTS}),
        make_trial(5, {"accuracy": 0.9, **COSTS, "trainable_params": 200.0}),
    ]
    finalists = [finalist(number, (3, 5)[number // 2], number % 2 + 1) for number in range(4)]
    return front_of(make_spec(), trials, {}, finalists)


@pytest.fixture
def left(tmp_path: Path) -> list[dict[str, np.ndarray]]:
    return [leave(tmp_path / "finalists" / str(number), number) for number in range(4)]


@pytest.fixture
def points(front: Front, left: list, tmp_path: Path) -> dict[str, PredictorPoint]:
    return {one.name: one for one in predictor_points(front, tmp_path, SPEC)}


def test_there_is_every_way_to_predict(points: dict[str, PredictorPoint]) -> None:
    assert all(one.subgroups is None for one in points.values()), "the task has none"
    assert list(points) == ["single-3", "single-5", "seeds-3", "seeds-5", "front-3-5", "laplace-3", "laplace-5"]
    assert points["front-3-5"].title == "ensemble of the front, trials 3, 5"
    assert points["seeds-5"].members == ("finalists/2", "finalists/3")
    assert points["front-3-5"].members == ("finalists/0", "finalists/2"), "the first seed of each, chosen by nothing"


def test_an_ensemble_is_the_mean_of_probabilities_calibrated_after(points: dict[str, PredictorPoint], left) -> None:
    pooled = {role: pooled_logits([left[2][f"{role}_logits"], left[3][f"{role}_logits"]]) for role in ROLES}
    fit = fit_temperature(pooled["calibration"], left[2]["calibration_labels"])
    expected = nll_from_logits(fit.apply(pooled["test"]), left[2]["test_labels"])
    assert points["seeds-5"].test["calibrated_nll"] == pytest.approx(expected)
    assert points["seeds-5"].test["calibrated_nll"] < points["single-5"].test["calibrated_nll"]
    alone = [nll_from_logits(left[number]["test_logits"], left[number]["test_labels"]) for number in (2, 3)]
    assert points["single-5"].test["nll"] == pytest.approx(np.mean(alone))


def test_costs_are_those_of_all_that_is_run(points: dict[str, PredictorPoint]) -> None:
    assert points["single-5"].costs["latency_ms"] == 2.0
    assert (points["seeds-5"].passes, points["seeds-5"].costs["latency_ms"]) == (2, 4.0)
    assert points["front-3-5"].costs["checkpoint_bytes"] == 2000.0
    laplace = points["laplace-3"]
    assert (laplace.passes, laplace.costs["latency_ms"], laplace.costs["checkpoint_bytes"]) == (1, 2.5, 1050.0)


def test_sets_cover_what_they_promise(points: dict[str, PredictorPoint]) -> None:
    for one in points.values():
        for method in ("lac", "aps"):
            found = one.conformal[method]
            assert found is not None
            assert found["promised"] == pytest.approx(0.9)
            assert abs(found["coverage"] - 0.9) < 0.045, "a binomial error of 1,000 rows to fit and 1,000 to judge"
            assert 1.0 <= found["mean_size"] <= 3.0


def test_what_was_not_asked_for_or_left_no_files_is_left_out(front: Front, left: list, tmp_path: Path) -> None:
    asked = SPEC.model_copy(update={"predictors": ()})
    assert {one.kind for one in predictor_points(front, tmp_path, asked)} == {"single", "laplace"}
    (tmp_path / "finalists" / "3" / "test.safetensors").unlink()
    found = [one.name for one in predictor_points(front, tmp_path, SPEC)]
    assert "seeds-3" in found
    assert "seeds-5" not in found
    assert predictor_points(front, tmp_path / "elsewhere", SPEC) == []


def test_too_few_rows_promise_nothing(front: Front, left: list, tmp_path: Path) -> None:
    strict = SPEC.model_copy(update={"alpha": 0.0005})
    assert predictor_points(front, tmp_path, strict)[0].conformal == {"lac": None, "aps": None}


def test_masked_options_are_in_no_set(front: Front, tmp_path: Path) -> None:
    """Uncalibrated and so sure that labels have a probability of zero, sets hold every option that may be answered."""
    for number in range(4):
        leave(tmp_path / "finalists" / str(number), number, sure=1e5, masked=True)
    plain = SPEC.model_copy(update={"method": "none", "predictors": ()})
    for one in predictor_points(front, tmp_path, plain):
        if one.kind == "single":
            assert [one.conformal[method]["mean_size"] for method in ("lac", "aps")] == [2.0, 2.0]


def test_they_are_marked_in_pictures_and_tables(front: Front, points: dict[str, PredictorPoint]) -> None:
    import dataclasses

    whole = dataclasses.replace(front, predictors=tuple(one.to_json() for one in points.values()))
    trials = [one.trial for one in whole.members]
    figure = pareto_figure(whole.to_json(), trials)
    names = {trace.name: trace for trace in figure.data}
    assert {"ensemble of seeds", "ensemble of the front", "Laplace"} <= set(names)
    assert list(names["ensemble of the front"].y) == [points["front-3-5"].validation["accuracy"]]
    assert pareto_png(whole.to_json(), trials) != pareto_png(front.to_json(), trials)
    table = predictors_csv(whole).splitlines()
    assert len(table) == 1 + len(points)
    assert table[0].startswith("name,kind,passes,")
    assert "lac_coverage" in table[0]


def test_they_are_recorded_once(uri, tmp_path, points: dict[str, PredictorPoint]) -> None:
    store = make_store(tmp_path)
    store.note("predictors", [one.to_json() for one in points.values()])
    assert len(front_of_study(store).predictors) == len(points)
    for _ in range(2):
        Recorder(uri, tmp_path / "artifacts", store).record_all()
    found = {key: run for key, run in rows(uri).items() if key.startswith("predictors/")}
    assert set(found) == {f"predictors/{name}" for name in points}
    run = found["predictors/seeds-5"]
    assert run.data.metrics["passes"] == 2
    assert run.data.metrics["test_calibrated_nll"] == points["seeds-5"].test["calibrated_nll"]
    assert run.data.metrics["test_lac_coverage"] > 0.8
    assert MlflowClient(uri).get_run(run.info.run_id).data.tags["pareto"] == "predictor"


def test_each_subgroup_of_test_is_scored(front: Front, left: list, tmp_path: Path) -> None:
    names = {role: np.array(["even", "odd"])[np.arange(count) % 2] for role, count in ROLES.items()}
    found = {one.name: one for one in predictor_points(front, tmp_path, SPEC, names)}
    one = found["single-5"].subgroups
    assert one is not None
    fit = fit_temperature(left[2]["calibration_logits"], left[2]["calibration_labels"])
    after = np.exp(log_softmax(fit.apply(left[2]["test_logits"])))
    expected = subgroup_scores(after, left[2]["test_labels"], names["test"], draws=100)
    assert one["scores"] == expected.to_json()["scores"], "of the first seed"
    own = fit_subgroup_temperatures(left[2]["calibration_logits"], left[2]["calibration_labels"], names["calibration"])
    assert one["temperatures"] == own.temperatures
    change = one["with_temperatures"]
    assert change["low"] <= change["less_common"] <= change["high"]
    assert change["nll"] == pytest.approx(expected_nll(after, left[2]["test_labels"]) + change["less_common"])


def expected_nll(p: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(p[np.arange(len(p)), labels]).mean())


def test_a_study_makes_them_of_what_its_finalists_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real study on a tiny model, in one process."""
    for name, double in (("cluster", in_process.cluster), ("run_jobs", in_process.run_jobs)):
        monkeypatch.setattr(study, name, double)
    monkeypatch.setattr(study, "Recorder", in_process.NoRecorder)
    monkeypatch.setattr(study, "TracingProcess", nullcontext)
    given = {
        "name": "tiny",
        "model": {"name": str(tiny_folder(tmp_path / "model", num_labels=3)), "device": "cpu", "dtype": "float32"},
        "task": {
            "dataset": questions_file(tmp_path),
            "splits": {"test": 0.3, "validation": 0.2, "calibration": 0.2},
            "length_bands": 2,
        },
        "objectives": [{"minimize": "worst_subgroup_nll"}, {"minimize": "trainable_params"}],
        "space": {"methods": {"lora": {"r": [2, 4]}}, "recipe": {"dropout": [0.1]}},
        "budgets": {"trials": 2},
        "training": {"steps": 4, "batch_size": 8, "max_length": 16},
        "search": {"references": [], "finalists": {"count": 1, "seeds": 2}},
        "calibration": {"floor_draws": 100, "passes": 2, "least_subgroup": 3, "predictors": list(PREDICTORS)},
    }
    home = Home(tmp_path / "home").create()
    store = in_process.store_of(home, parse(given))
    front = study.run_study(store, home, in_process.Watched())
    assert {one["kind"] for one in front.predictors} == {"single", *PREDICTORS} - {"front"}
    assert all(one["test"]["calibrated_nll"] > 0 and one["costs"]["latency_ms"] > 0 for one in front.predictors)
    table = (home.study("tiny") / "front" / "predictors.csv").read_text().splitlines()
    assert len(table) == 1 + len(front.predictors)
    for trial in store.trials():
        assert all(score["worst_subgroup_nll"] >= score["calibrated_nll"] - 1e-9 for score in trial.scores)
    rows = (home.study("tiny") / "front" / "subgroups.csv").read_text().splitlines()
    assert rows[0].startswith("predictor,subgroup,temperature,n,accuracy,nll,gap,ece,floor,p_value,")
    assert len(rows) == 1 + 2 * len(front.predictors), "two bands of length for each predictor"
    _check_export(store, home, tmp_path / "pick")


def _check_export(store: StudyStore, home: Home, folder: Path) -> None:
    """The sets of the export are those of its own calibration rows, each calibrated by others, and they answer."""
    made = export(store, home, None, folder)
    arrays = safetensors.numpy.load_file(folder / "predictions.safetensors")
    predictor = load_exported(folder)
    assert predictor.sets == fit_sets(arrays["calibration_logits"], arrays["calibration_labels"], 0.1)
    assert all(fit is not None and fit.n == len(arrays["calibration_labels"]) for fit in predictor.sets.values())
    assert set(predictor.answers(["who is"])[0]) <= set(predictor.classes)
    assert made.difference <= 1e-5
