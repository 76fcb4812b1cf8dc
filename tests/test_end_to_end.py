"""The main job through the command line: a real study, killed in the middle, resumed, recorded, exported."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from orchestrator.export.folder import ROUNDED
from orchestrator.storage import Storage, StudyStore
from orchestrator.trial import PHASES, Trial

pytest.importorskip("mlflow")
STUDY = {
    "name": "small",
    "model": "builtin:minilm-l6",
    "task": {"dataset": "builtin:trec", "max_train": 240, "max_evaluation": 120},
    "space": {
        "methods": {"lora": {"r": [2, 4], "layers": ["all"]}, "bitfit": {"layers": ["top:2"]}, "serial_adapter": {}},
        "hybrids": ["lora + bitfit"],
    },
    "objectives": [{"maximize": "accuracy"}, {"minimize": "trainable_params"}],
    "budgets": {"trainable_params": "1%", "memory": "1GiB", "trials": 5},
    "search": {
        "startup_trials": 2,
        "early_stopping": {"eta": 2, "rungs": 2, "grace": 2},
        "references": ["head"],
        "finalists": {"count": 1, "seeds": 2},
    },
    "training": {"steps": 8, "batch_size": 16},
}


def paretune(home: Path, *words: str) -> list[str]:
    os.environ["PARETUNE_HOME"] = str(home)
    return [sys.executable, "-m", "orchestrator.cli", *words]


def run(home: Path, *words: str) -> str:
    done = subprocess.run(paretune(home, *words), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def settled(store: StudyStore) -> dict[int, Trial]:
    return {one.number: one for one in store.trials() if one.state in ("complete", "partial", "failed")}


@pytest.mark.timeout(600)
def test_a_killed_study_resumes_records_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("PARETUNE_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PARETUNE_STORAGE", raising=False)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY))

    before = _kill_after(2, home, file)
    store = Storage(f"sqlite:///{home / 'paretune.db'}").open("small")
    assert any(one.state == "running" for phase in PHASES for one in store.trials(phase)), "killed in the middle"

    result = json.loads(run(home, "run", str(file), "--json"))
    assert result["status"] == "complete"
    _check_storage(store, before)
    _check_record(home, store)

    target = tmp_path / "pick"
    made = json.loads(run(home, "export", "small", "--to", str(target), "--json"))
    assert made["difference"] <= ROUNDED
    assert {"paretune.json", "state.safetensors", "calibration.json", "conformal.json", "train.py", "README.md"} <= {
        path.name for path in target.iterdir()
    }
    _check_again(home, store)


def _kill_after(count: int, home: Path, file: Path) -> dict[int, Trial]:
    """Start the study and kill its driver, without a word, once some trials are settled."""
    driver = subprocess.Popen(
        paretune(home, "run", str(file)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            time.sleep(0.2)
            assert driver.poll() is None, "the study ended before it could be killed"
            if not (home / "paretune.db").exists():
                continue
            storage = Storage(f"sqlite:///{home / 'paretune.db'}")
            done = settled(storage.open("small")) if "small" in storage.names() else {}
            if len(done) >= count:
                return done
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    raise AssertionError("no trial was settled in time")


def _check_storage(store: StudyStore, before: dict[int, Trial]) -> None:
    trials = {phase: store.trials(phase) for phase in PHASES}
    assert all(one.state != "running" for phase in PHASES for one in trials[phase])
    assert sum(one.state != "infeasible" for one in trials["search"]) == STUDY["budgets"]["trials"]
    after = settled(store)
    for number, one in before.items():
        assert (after[number].finished, after[number].scores) == (one.finished, one.scores), "trained again"
    assert [one.state for one in trials["references"]] == ["complete"]
    finalists = Counter((one.origin, one.seed) for one in trials["finalists"])
    assert len(finalists) == 2
    assert set(finalists.values()) == {1}
    assert all(one.test is not None for one in trials["finalists"])
    assert all(one.test is None for one in trials["search"])


def _check_record(home: Path, store: StudyStore) -> None:
    """Every trial and every predictor has one run in MLflow, also after the database was deleted and recorded anew."""
    points = store.noted("predictors")
    assert {"single", "seeds", "laplace"} == {one["kind"] for one in points}
    assert all(one["test"]["calibrated_nll"] > 0 and one["costs"]["latency_ms"] > 0 for one in points)
    expected = Counter(one.key for phase in PHASES for one in store.trials(phase))
    expected.update(f"predictors/{one['name']}" for one in points)
    assert _recorded(home) == expected
    for path in home.glob("mlflow.db*"):
        path.unlink()
    run(home, "record", "small")
    run(home, "record", "small")
    assert _recorded(home) == expected


def _recorded(home: Path) -> Counter[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("paretune/small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    assert len(parents) == 1
    assert {"pareto.html", "pareto.json", "pareto.csv", "pareto.png", "predictors.csv"} <= {
        one.path for one in client.list_artifacts(parents[0].info.run_id)
    }
    return Counter(one.data.tags["paretune.trial"] for one in runs if one is not parents[0])


def _check_again(home: Path, store: StudyStore) -> None:
    """The same command on a finished study trains nothing and prints the same front."""
    finished = {one.key: one.finished for phase in PHASES for one in store.trials(phase)}
    run(home, "resume", "small", "--json")
    assert {one.key: one.finished for phase in PHASES for one in store.trials(phase)} == finished
