"""The command line: what a program reads, what a person reads, and exit codes that tell mistakes from failures."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from evaluators.builtin import minilm_l6, trec
from evaluators.trained import TrainedEvaluator
from orchestrator import cli
from orchestrator.cli.running import _announce
from orchestrator.home import Home
from orchestrator.storage import Storage
from search_space.errors import InstallationError
from tests.dashboards import stored
from tests.evaluators.tiny import questions_file, tiny_folder
from tests.orchestrator import made_up

SYNTHETIC = """
name: tried
model: "-"
task: "-"
space: {methods: {lora: {}, ia3: {}}, hybrids: [lora + ia3]}
budgets: {trainable_params: 5%}
training: {steps: 90}
synthetic: {}
"""
BAD = """
name: Bad Name
modle: x
task: {dataset: builtin:trek}
space: {methods: {lora: {rank: 4}, lorra: {}}}
budgets: {memory: lots, trials: 0}
objectives: [{maximize: acuracy}]
"""


BUILTINS = """
name: real
model: builtin:minilm-l6
task: {dataset: "builtin:trec", max_train: 100, max_evaluation: 50}
space:
  methods: {lora: {r: 8, alpha: 16, use_dora: false, use_rslora: false, layers: all, projections: linear}}
  hybrids: []
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a study in it that has come to its end."""
    home = Home(tmp_path_factory.mktemp("kept")).create()
    stored.complete(Storage(f"sqlite:///{home.root / 'paretune.db'}"), "trec-minilm")
    return home.root


@pytest.fixture
def paretune(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process; returns its exit code, output and errors."""
    monkeypatch.setenv("PARETUNE_HOME", str(kept))
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("PARETUNE_STORAGE", "MLFLOW_TRACKING_URI", "PARETUNE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paretune", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def told(answer: tuple[int, str, str]) -> Any:
    """Return the JSON that a command printed."""
    code, out, errors = answer
    assert code == 0, errors
    return json.loads(out)


def written(folder: Path, text: str) -> str:
    path = folder / "study.yaml"
    path.write_text(text)
    return str(path)


class TestDryRun:
    def test_it_tells_the_space_and_what_the_budgets_reject(self, paretune, tmp_path: Path) -> None:
        data = told(paretune("run", written(tmp_path, SYNTHETIC), "--dry-run", "--json"))
        assert (data["study"], data["compositions"], data["steps"]) == ("tried", 3, 90)
        assert data["space_size"] > 1000
        assert data["limits"] == {"trainable_params": 50_000}
        assert data["candidates"][0]["parts"] == "lora"
        for one in data["candidates"]:
            over = one["cost"]["trainable_params"] > 50_000
            assert one["rejected"] == (["trainable_params"] if over else [])
        assert {bool(one["rejected"]) for one in data["candidates"]} == {True, False}

    def test_people_get_a_table(self, paretune, tmp_path: Path) -> None:
        code, out, _ = paretune("run", written(tmp_path, SYNTHETIC), "--dry-run")
        assert code == 0
        assert "architectures in 3 compositions" in out
        assert "would be rejected untrained" in out

    def test_nothing_is_stored(self, paretune, tmp_path: Path) -> None:
        paretune("run", written(tmp_path, SYNTHETIC), "--dry-run")
        assert [one["name"] for one in told(paretune("ls", "--json"))] == ["trec-minilm"]

    def test_the_builtins_are_counted_exactly(self, paretune, tmp_path: Path) -> None:
        try:
            minilm_l6()
            trec()
        except InstallationError as error:
            pytest.skip(str(error))
        data = told(paretune("run", written(tmp_path, BUILTINS), "--dry-run", "--json"))
        assert data["space_size"] == 1
        cost = data["candidates"][0]["cost"]
        assert cost["trainable_params"] == 6 * 8 * (4 * (384 + 384) + 2 * (384 + 1536))
        assert cost["head_params"] == 384 * 6 + 6
        assert cost["peak_memory_bytes"] > 4 * 22_000_000
        assert data["backbone_parameters"] == 22_713_216


class TestProfile:
    @staticmethod
    def tiny(folder: Path) -> str:
        model, data = tiny_folder(folder / "model", num_labels=3), questions_file(folder)
        training = "{steps: 4, batch_size: 8, max_length: 16}"
        text = (
            f"name: tiny\nmodel: {{name: {model}, dtype: float32, device: cpu}}\ntask: {data}\ntraining: {training}\n"
        )
        return written(folder, text)

    def test_it_says_where_the_time_of_a_trial_goes(self, paretune, tmp_path: Path) -> None:
        chosen = ["--candidate", "bitfit", "--candidate", "head"]
        data = told(paretune("profile", self.tiny(tmp_path), *chosen, "--steps", "2", "--json"))
        assert [one["candidate"].partition(" ")[0] for one in data["trials"]] == ["bitfit", "head"]
        assert data["trials"][0]["measured"]["backward"] > 0
        assert 0 < data["padding"]["to_the_longest"] < 1

    def test_steps_are_divided_as_the_study_would_divide_them(
        self, paretune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A limit that only a step of one example fits divides every step into its eight examples."""
        started, real = [], TrainedEvaluator.start
        monkeypatch.setattr(TrainedEvaluator, "start", lambda *given: started.append(real(*given)) or started[-1])
        file = Path(self.tiny(tmp_path))
        divided = file.read_text().replace("max_length: 16}", "max_length: 16, accumulate: auto}")
        measured = divided.replace("device: cpu", "device: cpu, attention: sdpa")  # which is faster depends on the load
        file.write_text(measured + "budgets: {memory: 32KiB}\n")
        told(paretune("profile", str(file), "--candidate", "bitfit", "--steps", "2", "--json"))
        assert [run.at_once for run in started] == [1] * len(started)

    def test_people_get_a_table(self, paretune, tmp_path: Path) -> None:
        code, out, _ = paretune("profile", self.tiny(tmp_path), "--steps", "2")
        assert code == 0
        for word in ("forward", "backward", "optimiser", "evaluation", "overhead", "total", "Padding"):
            assert word in out
        assert "2 layers start from stored states" in out

    def test_a_synthetic_study_has_no_time_to_tell(self, paretune, tmp_path: Path) -> None:
        code, _, errors = paretune("profile", written(tmp_path, SYNTHETIC))
        assert code == 2
        assert "synthetic" in errors


class TestMistakes:
    def test_a_bad_spec_is_told_whole(self, paretune, tmp_path: Path) -> None:
        code, out, errors = paretune("run", written(tmp_path, BAD))
        assert code == 2
        assert out == ""
        spaces = ("space.methods.lora", "space.methods.lorra")
        for path in (
            "name",
            "modle",
            "model",
            "task.dataset",
            *spaces,
            "budgets.memory",
            "budgets.trials",
            "objectives.0",
        ):
            assert f"  {path}: " in errors
        for near in ("model", "builtin:trec", "lora", "accuracy"):
            assert f"did you mean '{near}'" in errors
        assert "Traceback" not in errors

    def test_a_file_that_is_not_there(self, paretune) -> None:
        code, _, errors = paretune("run", "gone.yaml")
        assert code == 2
        assert "gone.yaml" in errors
        assert "cannot be read" in errors

    @pytest.mark.parametrize("verb", [["show"], ["pareto"], ["resume"], ["export", "--to", "x"], ["record"], ["stop"]])
    def test_an_unknown_study_is_answered_with_the_nearest(self, paretune, verb: list[str]) -> None:
        code, out, errors = paretune(verb[0], "trec-minlm", *verb[1:])
        assert (code, out) == (2, "")
        assert "there is no study 'trec-minlm' (did you mean 'trec-minilm'?)" in errors

    def test_an_unknown_trial(self, paretune) -> None:
        code, _, errors = paretune("show", "trec-minilm", "--trial", "999")
        assert code == 2
        assert "has no trial 999" in errors

    @pytest.mark.parametrize("arguments", [["serach"], ["run"], ["show", "x", "--nope"], ["show", "x", "--trial", "y"]])
    def test_a_wrong_call(self, paretune, arguments: list[str]) -> None:
        assert paretune(*arguments)[0] == 2

    def test_nothing_to_export_is_a_failure(self, paretune, tmp_path: Path) -> None:
        code, _, errors = paretune("export", "trec-minilm", "--to", str(tmp_path / "pick"))
        assert code == 1
        assert "left no weights" in errors
        assert not (tmp_path / "pick").exists()

    def test_a_folder_that_exists_is_not_overwritten(self, paretune, tmp_path: Path) -> None:
        code, _, errors = paretune("export", "trec-minilm", "--to", str(tmp_path))
        assert code == 1
        assert "exists; choose another folder" in errors


class TestReading:
    def test_ls(self, paretune) -> None:
        (one,) = told(paretune("ls", "--json"))
        assert one["name"] == "trec-minilm"
        assert one["status"] == "complete"
        assert sum(one["trials"].values()) == 24
        assert "trec-minilm" in paretune("ls")[1]

    def test_show(self, paretune) -> None:
        data = told(paretune("show", "trec-minilm", "--json"))
        assert data["spec"]["name"] == "trec-minilm"
        phases = [one["trial"].split("/")[0] for one in data["rows"]]
        assert phases.count("search") == 24
        assert phases.count("references") == 2
        assert set(phases) == {"search", "references", "finalists"}
        assert "rejected untrained" in paretune("show", "trec-minilm")[1]

    def test_paused_trials_are_counted_and_shown(self, paretune, tmp_path: Path, monkeypatch, capsys) -> None:
        home = stored.empty_home(tmp_path / "home")
        monkeypatch.setenv("PARETUNE_HOME", str(home.root))
        store = stored.begin(Storage(home.storage_url), stored.spec_of("frozen"))
        stored.add_settled(store, stored.candidate("ia3"))
        stored.pause_trial(store, stored.candidate("bitfit"))
        (one,) = told(paretune("ls", "--json"))
        counted = {"complete": 1, "partial": 0, "infeasible": 0, "failed": 0, "paused": 1, "running": 0}
        assert one["trials"] == counted
        assert "paused" in paretune("ls")[1]
        rows = told(paretune("show", "frozen", "--json"))["rows"]
        assert [row["state"] for row in rows] == ["complete", "paused"]
        row = next(line for line in paretune("show", "frozen")[1].splitlines() if "bitfit" in line)
        assert row.split()[-1] == "paused"
        assert paretune("show", "frozen", "--trial", "1")[1].startswith("trial 1 paused")
        _announce(store)
        assert "1 trials are done, 1 are paused." in capsys.readouterr().err

    def test_show_one_trial(self, paretune) -> None:
        one = told(paretune("show", "trec-minilm", "--trial", "0", "--json"))
        assert one["number"] == 0
        assert [score["step"] for score in one["scores"]] == [33, 100, 300]
        code, out, _ = paretune("show", "trec-minilm", "--trial", "0")
        assert code == 0
        assert one["notation"] in out

    def test_pareto(self, paretune) -> None:
        data = told(paretune("pareto", "trec-minilm", "--json"))
        assert data["status"] == "complete"
        assert data["pick"]["reason"]
        code, out, _ = paretune("pareto", "trec-minilm")
        assert code == 0
        assert "Pareto front of trec-minilm" in out
        assert f"Pick: trial {data['pick']['number']}" in out
        assert "paretune export trec-minilm" in out
        for name, choice in data["pick"]["alternatives"].items():
            where = "none" if choice["number"] is None else f"trial {choice['number']}"
            assert f"{name.replace('_', ' ').capitalize()}: {where} — " in out
            assert choice["reason"][:20] in out
        again = [one for one in (*data["members"], *data["neighbours"]) if one["firm"] is not None]
        assert f"of {len(again)} trained again" in out
        assert f"[{data['confirmed_hypervolume']['low']:.4f}, " in out
        assert f"of what was trained again {data['searched_hypervolume']:.4f} there and " in out
        assert "Optimism: accuracy " in out

    def test_pareto_shows_what_was_trained_again_beside_the_front(
        self, paretune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Trial 1 is dominated in the search by luck, and the best once it is trained again."""
        home = stored.empty_home(tmp_path / "home")
        monkeypatch.setenv("PARETUNE_HOME", str(home.root))
        store = Storage(home.storage_url).create(made_up.make_spec("lucky"))
        store.note("reference_point", {"accuracy": 1 / 6, "trainable_params": 1e6})
        for number, accuracy, again, params in ((0, 0.95, 0.85, 500), (1, 0.9, 0.93, 600), (2, 0.5, 0.5, 50)):
            made_up.enter(store, made_up.make_trial(number, {"accuracy": accuracy, "trainable_params": params}))
            for seed in range(3):
                values = {"accuracy": again + seed / 1000, "trainable_params": params}
                test = {"accuracy": again - 0.01, "trainable_params": params}
                made_up.enter(store, made_up.make_finalist(3 * number + seed, number, values, test))
        tries = (("partial", "interrupted", None), ("complete", None, {"accuracy": 0.4321, "trainable_params": 1}))
        for number, (state, cause, values) in enumerate(tries):
            told = {"phase": "references", "origin": "head", "state": state, "cause": cause}
            made_up.enter(store, made_up.make_trial(number, values, **told))
        code, out, _ = paretune("pareto", "lucky")
        assert code == 0
        row = next(line for line in out.splitlines() if line.startswith("➤1*"))
        assert "0.900" in row
        assert row.split()[-4:] == ["0.920", "±", "0.000", "1.00"]
        assert "* dominated by what the search measured" in out
        assert "interrupted" not in out
        assert "0.432" in out

    def test_a_study_that_does_not_run_is_not_stopped(self, paretune) -> None:
        code, out, _ = paretune("stop", "trec-minilm")
        assert code == 0
        assert "is not running on this machine" in out

    def test_an_empty_home_says_what_to_do(self, paretune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARETUNE_HOME", str(tmp_path / "fresh"))
        assert told(paretune("ls", "--json")) == []
        assert "No studies yet" in paretune("ls")[1]


def test_doctor_looks_at_everything(paretune) -> None:
    code, out, _ = paretune("doctor", "--json")
    findings = {one["name"]: one for one in json.loads(out)}
    assert {"paretune", "libraries", "device", "bfloat16", "memory", "Ray"} <= set(findings)
    assert {"storage", "MLflow", "disk", "builtin:minilm-l6", "builtin:trec", "model hub"} <= set(findings)
    assert all(one["state"] in ("ok", "note", "missing") and one["text"] for one in findings.values())
    assert code == any(one["state"] == "missing" for one in findings.values())
    assert "paretune" in paretune("doctor")[1]


def test_doctor_shows_no_password(paretune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@tracking")
    assert "hunter2" not in paretune("doctor", "--json")[1]


def test_the_module_is_the_command(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", written(tmp_path, BAD)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "9 problems" in ended.stderr


def _verbs() -> dict[str, Any]:
    return dict(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_help_names_every_verb(paretune) -> None:
    _, out, _ = paretune("--help")
    assert all(f" {verb} " in out for verb in _verbs())
    assert {"run", "resume", "ls", "show", "pareto", "export", "record", "doctor", "serve", "stop"} <= set(_verbs())


def test_every_verb_speaks_json() -> None:
    assert all(any("--json" in one.opts for one in verb.params) for verb in _verbs().values())


def test_it_tells_its_version(paretune) -> None:
    code, out, _ = paretune("--version")
    assert (code, out) == (0, f"paretune {version('paretune')}\n")


def test_serve_tells_a_program_where_things_are(paretune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.server.execute", lambda ready: None)
    monkeypatch.delenv("PARETUNE_TOKEN", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = json.loads(paretune("serve", "--port", "5055", "--json")[1])
    assert told["api"] == "http://127.0.0.1:5055/paretune/api/v1"
    assert told["needs_token"] is False


def test_watch_tells_a_program_each_change_once(paretune, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [("running", 1), ("running", 1), ("running", 2), ("finished", 2)]
    answers = iter([{"name": "x", "state": state, "trials": done, "trials_budget": 2} for state, done in states])
    monkeypatch.setattr("orchestrator.client.Client.study", lambda self, name: next(answers))
    monkeypatch.setattr("orchestrator.cli.service._POLL_SECONDS", 0)
    _, out, _ = paretune("watch", "x", "--json")
    assert [json.loads(line)["trials"] for line in out.splitlines()] == [1, 2, 2]
