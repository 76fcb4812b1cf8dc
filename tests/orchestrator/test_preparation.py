"""What a study needs before it starts: attention is measured once, kept with the study, and used by all its trials."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evaluators import attention, backbone
from evaluators.costing import MetaCoster
from evaluators.evaluation import EvaluatorSpec
from evaluators.tracing import Subject
from orchestrator.preparation import _coster, model_of, note_facts, prepare
from orchestrator.spec import StudySpec, parse
from orchestrator.storage import IN_MEMORY, Storage
from search_space.errors import DataError, EmptySpaceError, TracingError
from search_space.notation import parse as parse_notation
from tests.evaluators.tiny import questions_file, tiny_folder
from tests.orchestrator.tables import spec_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    tiny_folder(path / "model", num_labels=3)
    return path


def spec(folder: Path, **model: str) -> StudySpec:
    data = {
        "name": "small",
        "model": {"name": str(folder / "model"), "device": "cpu", "dtype": "float32", **model},
        "task": questions_file(folder),
        "training": {"batch_size": 8, "max_length": 16},
    }
    return parse(data)


def test_attention_is_measured_once_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_times", lambda *_: {"sdpa": 1.0, "eager": 0.5})
    one = spec(folder)
    store = Storage(IN_MEMORY).create(one)
    prepared = prepare(one, folder, store.noted("attention"))
    assert prepared.evaluator.model.attention == "eager"
    note_facts(store, prepared)
    assert store.noted("attention")["milliseconds"] == {"sdpa": 1000.0, "eager": 500.0}
    assert store.noted("environment")["attention"] == store.noted("attention")
    assert model_of(store).attention == "eager"
    monkeypatch.setattr(attention, "_times", lambda *_: pytest.fail("measured again"))
    again = prepare(one, folder, store.noted("attention"))
    assert again.evaluator == prepared.evaluator


def test_on_a_gpu_it_is_measured_in_a_process_that_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own process would hold a context on the GPU for as long as the study lasts."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(backbone, "_choose_device", lambda wanted: torch.device("cuda"))
    monkeypatch.setattr(attention, "measured_apart", lambda *given: asked.append(given) or {"chosen": "sdpa"})
    monkeypatch.setattr(attention, "_times", lambda *_: pytest.fail("measured here"))
    one = spec(folder)
    prepared = prepare(one, folder)
    assert prepared.evaluator.model.attention == "sdpa"
    assert asked == [(one.model, one.training, folder / "tokens", 1)]


def test_what_the_study_file_says_is_not_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_times", lambda *_: pytest.fail("measured"))
    prepared = prepare(spec(folder, attention="eager"), folder)
    assert (prepared.evaluator.model.attention, prepared.attention) == ("eager", None)


class Apart:
    """Stands for the process that traces, in this one."""

    def __init__(self) -> None:
        self.begun = 0
        self.asked: list[Subject] = []

    def start(self) -> None:
        self.begun += 1

    def of(self, subject: Subject) -> Any:
        self.asked.append(subject)
        return subject.build()


def test_a_new_study_traces_in_the_process_that_it_began_and_the_next_one_reads(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, apart = spec(folder, attention="sdpa"), Apart()
    first = prepare(one, tmp_path / "first", None, tmp_path / "tables", apart)  # type: ignore[arg-type]
    assert apart.begun == 1
    assert [(subject.dtype, subject.device) for subject in apart.asked] == [("float32", "cpu")]
    cost = first.cost(first.space.usual())
    monkeypatch.setattr("evaluators.tracing.trace", lambda *_: pytest.fail("traced again"))
    again = prepare(one, tmp_path / "first", None, tmp_path / "tables", apart)  # type: ignore[arg-type]
    assert apart.begun == 1, "a study that goes on begins it when it needs it"
    assert again.cost(first.space.usual()) == cost
    other = prepare(one, tmp_path / "other", None, tmp_path / "tables", apart)  # type: ignore[arg-type]
    assert other.cost(first.space.usual()) == cost


def test_a_process_that_dies_over_every_candidate_ends_a_study_with_its_name(tmp_path: Path, folder: Path) -> None:
    class Dead(Apart):
        def of(self, subject: Subject) -> Any:
            def died(*_: Any) -> Any:
                raise TracingError("the process that traces was ended by SIGKILL")

            return SimpleNamespace(layers=died, whole=died)

    with pytest.raises(EmptySpaceError, match=r"(\d+) of \1: the process that traces was ended by SIGKILL"):
        prepare(spec(folder, attention="sdpa"), tmp_path, process=Dead())  # type: ignore[arg-type]


def test_memory_of_inference_is_for_the_longest_example_outside_of_test(folder: Path) -> None:
    """The limits decide what is tried, and nothing of the test split may."""
    one = spec(folder)
    longest = {"train": 8, "validation": 12, "calibration": 10, "test": 16}
    tokens = SimpleNamespace(classes=("a", "b", "c"), tasks=(), longest=longest)
    coster = _coster(one, one.model, tokens)  # type: ignore[arg-type]
    assert isinstance(coster, MetaCoster)
    assert (coster._load.length, coster._load.evaluated[1]) == (8, 12)


@pytest.mark.parametrize(
    ("given", "early"),
    [({}, False), ({"budgets": {"latency": "3ms"}}, True), ({"objectives": [{"minimize": "latency_ms"}]}, True)],
)
def test_a_study_about_latency_measures_it_at_the_first_rung(
    given: dict[str, Any], early: bool, tmp_path: Path
) -> None:
    objectives = [{"maximize": "accuracy"}, *given.get("objectives", [{"minimize": "trainable_params"}])]
    evaluator = prepare(spec_of(**{**given, "objectives": objectives}), tmp_path).evaluator
    assert evaluator.rung_latency is early
    assert EvaluatorSpec.from_json(evaluator.to_json()) == evaluator


def test_texts_with_an_end_token_are_refused_where_the_model_reads_the_class_there(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "model", "t5", num_labels=3, eos_token_id=3)
    asked = spec(tmp_path, attention="eager")
    (tmp_path / "good").mkdir()
    assert prepare(asked, tmp_path / "good").coster.cost(parse_notation("lora")).peak_memory_bytes
    data = Path(asked.task.dataset)
    data.write_text(data.read_text().replace("who ", "who [SEP] ", 1))
    with pytest.raises(DataError, match="1 of 60 examples hold the end token"):
        prepare(asked, tmp_path / "bad")
