"""Merged exports: plain checkpoints of transformers with equal logits, or nothing at all and the reason."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from evaluators.exported import load_exported, read_about
from evaluators.posteriors import with_laplace
from evaluators.predictors import load_ensemble
from orchestrator.cli import main
from orchestrator.export.folder import ROUNDED, _rounding, export
from orchestrator.home import Home
from orchestrator.logit_files import read_export
from orchestrator.spec import parse
from orchestrator.storage import StudyStore
from orchestrator.study import run_study
from search_space.errors import ExportError, UnsupportedError
from tests.evaluators.tiny import CLASSES, questions, questions_file, tiny_folder
from tests.evaluators.two_tasks import LENGTHS, task_of
from tests.orchestrator import in_process
from tests.orchestrator.in_process import Watched, store_of

TEXTS = [row["text"] for row in questions()][:8]
WHERE = {"bitfit": {"projections": ["linear,norm"]}}
"""Where methods are put, beside where the cheapest candidate of theirs is."""
PLAIN = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
rows = tokenizer(json.loads(sys.argv[2]), truncation=True, max_length=16, padding=True, return_tensors="pt")
rows.pop("token_type_ids", None)
found = [name for name in ("peft", "evaluators", "search_space") if name in sys.modules]
print(json.dumps([model(**rows).logits.tolist(), model.config.id2label, found]))
"""
"""What a process that knows transformers alone does; nothing else of ours is imported, nor can be."""

Trained = tuple[StudyStore, Home]
Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Search one candidate of a space, six steps on a tiny model, and train it again on one seed."""

    @cache
    def trained(text: str, architecture: str = "bert", tasks: int = 1, **model: str) -> Trained:
        folder = tmp_path_factory.mktemp("study")
        one = tiny_folder(folder / "model", architecture, num_labels=3)
        parts = [part.strip() for part in text.split("+")]
        space: dict[str, Any] = (
            {"methods": {part: WHERE.get(part, {}) for part in parts}} if len(parts) == 1 else {"hybrids": [text]}
        )
        task = task_of(folder).model_dump(mode="json", exclude_none=True)
        spec = parse(
            {
                "name": "merged",
                "model": {"name": str(one), "device": "cpu", "dtype": "float32", **model},
                "task": task if tasks > 1 else questions_file(folder),
                "space": {"methods": {}, **space},
                "budgets": {"trials": 1},
                "search": {"references": [], "finalists": {"count": 1, "seeds": 1}},
                "training": {"steps": 6, "batch_size": 8, "max_length": 16},
                "calibration": {"floor_draws": 100, "folds": 2, "scarce": 0, "predictors": []},
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            in_process.forget_settings(patch)
            in_process.in_this_process(patch)
            home = Home(folder / "home").create()
            store = store_of(home, spec)
            run_study(store, home, Watched())
        return store, home

    return trained


def in_plain_transformers(folder: Path) -> tuple[np.ndarray, dict[str, str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logits, labels, found = json.loads(done.stdout.splitlines()[-1])
    return np.array(logits), labels, found


@pytest.mark.parametrize(
    ("text", "architecture"),
    [("lora", "bert"), ("lora + ia3", "llama"), ("lora + bitfit", "bert"), ("full", "bert"), ("head", "bert")],
)
def test_transformers_alone_reloads_it_to_the_recorded_logits(
    train: Train, tmp_path: Path, text: str, architecture: str
) -> None:
    store, home = train(text, architecture)
    made = export(store, home, None, tmp_path / "merged", merged=True)
    beside = export(store, home, None, tmp_path / "beside")
    assert (made.merged, made.peft, beside.merged) == (True, False, False)
    assert made.difference <= 1e-4
    logits, labels, found = in_plain_transformers(made.folder)
    assert np.abs(logits - load_exported(beside.folder).logits(TEXTS)).max() <= 1e-4
    assert list(labels.values()) == list(CLASSES)
    assert not found
    names = {path.name for path in made.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "calibration.json", "train.py"} <= names
    assert not names & {"state.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    assert str(home.root) not in (made.folder / "config.json").read_text()


def test_peft_finds_no_adapter_where_it_would_read_one_part_alone(train: Train, tmp_path: Path) -> None:
    store, home = train("lora + bitfit")
    made = export(store, home, None, tmp_path / "beside")
    assert not made.peft
    base = AutoModelForSequenceClassification.from_pretrained(store.spec.model.name, num_labels=len(CLASSES))
    with pytest.raises(ValueError, match=r"Can't find 'adapter_config\.json'"):
        PeftModel.from_pretrained(base, str(made.folder))
    assert "load_exported" in (made.folder / "README.md").read_text()
    assert "PeftModel" not in (made.folder / "README.md").read_text()


def test_its_calibrator_its_sets_and_its_card_are_those_of_the_candidate(train: Train, tmp_path: Path) -> None:
    store, home = train("lora")
    folder = export(store, home, None, tmp_path / "merged", merged=True).folder
    beside = export(store, home, None, tmp_path / "beside").folder
    for name in ("calibration.json", "conformal.json", "predictions.safetensors", "train.py"):
        assert (folder / name).read_bytes() == (beside / name).read_bytes()
    assert read_about(folder) == read_about(beside) | {"merged": True}
    one, other = load_exported(folder), load_exported(beside)
    assert np.allclose(one.probabilities(TEXTS), other.probabilities(TEXTS), atol=1e-4)
    assert one.answers(TEXTS) == other.answers(TEXTS)
    assert one.classes == other.classes == CLASSES
    assert with_laplace(one, TEXTS).logits(TEXTS).shape == (len(TEXTS), len(CLASSES))
    assert read_export(folder)[0].logits.shape[1] == len(CLASSES)
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card
    assert 'AutoModelForSequenceClassification.from_pretrained("THIS_FOLDER")' in card
    assert "peft import" not in card
    assert "before it was merged" in card


def test_a_merged_export_stands_on_no_other_backbone(train: Train, tmp_path: Path) -> None:
    store, home = train("lora")
    folder = export(store, home, None, tmp_path / "merged", merged=True).folder
    beside = export(store, home, None, tmp_path / "beside").folder
    with pytest.raises(ExportError, match="stands on no other; export it without --merged"):
        load_exported(folder, model="elsewhere")
    with pytest.raises(ExportError, match="merged into weights of its own"):
        load_ensemble([folder, beside])


def test_each_of_several_tasks_keeps_its_columns(train: Train, tmp_path: Path) -> None:
    store, home = train("lora", tasks=2)
    made = export(store, home, None, tmp_path / "merged", merged=True)
    beside = export(store, home, None, tmp_path / "beside")
    assert made.difference <= 1e-4
    one, other = (load_exported(each.folder, task="length") for each in (made, beside))
    assert one.classes == LENGTHS
    assert np.allclose(one.probabilities(TEXTS), other.probabilities(TEXTS), atol=1e-4)
    logits, _, _ = in_plain_transformers(made.folder)
    assert np.abs(logits[:, len(CLASSES) :] - other.logits(TEXTS)).max() <= 1e-4
    assert "Columns 3 to 4 are those of the task `length`" in (made.folder / "README.md").read_text()


def test_what_was_trained_in_bfloat16_is_merged_in_float32(train: Train, tmp_path: Path) -> None:
    store, home = train("lora", dtype="bfloat16")
    made = export(store, home, None, tmp_path / "merged", merged=True)
    assert made.difference <= ROUNDED
    held = safetensors.numpy.load_file(made.folder / "model.safetensors")
    assert {array.dtype for array in held.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("text", "architecture", "reason"),
    [
        (
            "prefix_tuning",
            "bert",
            "prefix_tuning cannot be merged into the weights of bert: it is not in the weights; .* can",
        ),
        (
            "serial_adapter",
            "bert",
            "serial_adapter cannot be merged .*: what it computes is not a change of the .*; .* can",
        ),
        ("lora + serial_adapter", "bert", "serial_adapter cannot be merged"),
        ("bitfit", "llama", "computes without a bias"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_what_can(
    train: Train, tmp_path: Path, text: str, architecture: str, reason: str
) -> None:
    store, home = train(text, architecture)
    with pytest.raises(UnsupportedError, match=reason):
        export(store, home, None, tmp_path / "merged", merged=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs paretune[quantization]")
def test_quantised_weights_are_refused(train: Train, tmp_path: Path) -> None:
    store, home = train("lora", quantization="torchao_int8")
    with pytest.raises(
        UnsupportedError, match=r"quantised weights cannot be merged into: .* model\.quantization: none"
    ):
        export(store, home, None, tmp_path / "merged", merged=True)
    assert not list(tmp_path.iterdir())


def test_the_command_line_says_what_was_seen(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, home = train("lora")
    monkeypatch.setenv("PARETUNE_HOME", str(home.root))
    for name, words in (("said", ()), ("json", ("--json",))):
        monkeypatch.setattr(
            sys, "argv", ["paretune", "export", "merged", "--to", str(tmp_path / name), "--merged", *words]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        out = " ".join(capsys.readouterr().out.split())
        if words:
            assert json.loads(out)["merged"] is True
        else:
            assert "Reloaded with transformers' from_pretrained: its logits differ from the recorded ones by" in out


def test_rounding_moves_large_logits_farther() -> None:
    """A demo's pick was refused: 0.06 apart at logits of 5, one part in eighty."""
    assert _rounding(np.array([0.2, -0.5])) == ROUNDED
    assert _rounding(np.array([0.2, -5.0, -np.inf])) == pytest.approx(5 * ROUNDED)
