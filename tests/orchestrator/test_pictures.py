"""Pictures of calibration in the record: drawn once, from what finalists left in the study's folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from calibration.softmax import log_softmax
from calibration.temperature import fit_temperature
from orchestrator.figures.probabilities import trial_files
from orchestrator.recorder import PICTURES, Recorder
from orchestrator.storage import StudyStore
from tests.orchestrator.made_up import plausible
from tests.orchestrator.test_recorder import empty_database, enter, make_store, quick_figures, rows, uri

__all__ = ["empty_database", "quick_figures", "uri"]
FILES = {"calibration.html", "calibration.png"}


def leave_files(folder: Path, seed: int = 0, count: int = 150) -> Path:
    """What a trained finalist leaves."""
    random = np.random.default_rng(seed)
    arrays = {}
    for role in ("validation", "calibration"):
        logits = 2.0 * random.normal(size=(count, 3))
        arrays[f"{role}_logits"] = logits
        arrays[f"{role}_labels"] = (logits + random.gumbel(scale=3.0, size=logits.shape)).argmax(axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    fit = fit_temperature(arrays["calibration_logits"], arrays["calibration_labels"])
    arrays["validation_calibrated"] = log_softmax(fit.apply(arrays["validation_logits"]))
    safetensors.numpy.save_file(arrays, folder / "predictions.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path):
    """The study's folder: two finalists and one trial of the search left files."""
    for key in ("finalists/0", "finalists/1", "search/0"):
        leave_files(tmp_path / "studies" / key)
    return tmp_path / "studies"


@pytest.fixture
def store(tmp_path) -> StudyStore:
    return make_store(tmp_path)


@pytest.fixture
def recorder(uri, store, folder, tmp_path):
    return Recorder(uri, tmp_path / "artifacts", store, folder)


def artifacts(uri: str, key: str) -> set[str]:
    return {one.path for one in MlflowClient(tracking_uri=uri).list_artifacts(rows(uri)[key].info.run_id)}


def test_finalists_carry_their_pictures_and_nobody_else_does(uri, recorder):
    assert recorder.record_all().problem == ""
    assert artifacts(uri, "finalists/0") == artifacts(uri, "finalists/1") == FILES
    assert artifacts(uri, "search/0") == set()
    run = rows(uri)["finalists/0"]
    assert run.data.tags[PICTURES] == "calibration.html, calibration.png"
    assert run.info.status == "FINISHED"


def test_a_second_time_draws_and_writes_nothing(recorder, uri, store, folder, tmp_path, monkeypatch):
    recorder.record_all()

    def fail(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr("orchestrator.figures.probabilities.trial_files", fail)
    assert Recorder(uri, tmp_path / "artifacts", store, folder).record_all().created == 0


def test_files_that_are_elsewhere_are_done_without_and_drawn_when_they_come(uri, recorder, folder):
    shutil.move(folder / "finalists" / "1", folder / "away")
    assert recorder.record_all().problem == ""
    assert artifacts(uri, "finalists/0") == FILES
    assert artifacts(uri, "finalists/1") == set()
    assert PICTURES not in rows(uri)["finalists/1"].data.tags
    assert rows(uri)["finalists/1"].info.status == "FINISHED"
    shutil.move(folder / "away", folder / "finalists" / "1")
    recorder.record_all()
    assert artifacts(uri, "finalists/1") == FILES
    assert rows(uri)["finalists/1"].info.status == "FINISHED"


def test_damaged_files_are_warned_of_and_hold_nothing_up(uri, recorder, folder, caplog):
    (folder / "finalists" / "0" / "predictions.safetensors").write_text("{")
    with caplog.at_level(logging.WARNING):
        result = recorder.record_all()
    assert (result.problem, result.waiting) == ("", 0)
    assert "finalists/0 has no pictures" in caplog.text
    assert artifacts(uri, "finalists/0") == set()
    assert artifacts(uri, "finalists/1") == FILES


def test_a_server_that_dies_at_the_upload_gets_it_later(uri, recorder, monkeypatch):
    whole = MlflowClient.log_artifacts

    def fail(self, run_id, *words):
        raise MlflowException("connection refused")

    monkeypatch.setattr(MlflowClient, "log_artifacts", fail)
    assert recorder.record_all().waiting > 0
    monkeypatch.setattr(MlflowClient, "log_artifacts", whole)
    assert recorder.record_all().problem == ""
    assert artifacts(uri, "finalists/0") == artifacts(uri, "finalists/1") == FILES


def test_a_finalist_that_is_not_complete_has_none(uri, store, recorder, folder):
    _, _, finalists = plausible(3, 5)
    number = enter(store, finalists[2].__class__(**{**finalists[2].__dict__, "state": "failed", "cause": "raised"}))
    leave_files(folder / "finalists" / str(number))
    recorder.record_all()
    assert artifacts(uri, f"finalists/{number}") == set()


def test_the_same_files_give_the_same_pictures(tmp_path):
    left = leave_files(tmp_path / "one")
    assert trial_files(left, "a <title>") == trial_files(left, "a <title>")
    assert b"<title>a &lt;title&gt;</title>" in trial_files(left, "a <title>")["calibration.html"]
    assert trial_files(tmp_path / "none", "nothing") == {}
