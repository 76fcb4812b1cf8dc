"""What was traced is kept on disk: found by later processes, and never a part of it."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators import table_files
from evaluators.backbone import Machine, load_config
from evaluators.costing import MetaCoster
from evaluators.memory import Load
from evaluators.memory_table import MemoryTable
from evaluators.spec import ModelSpec
from evaluators.table_files import TableFiles, conditions
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.test_memory_table import LOAD, on_meta

SPEC = ModelSpec(name="builtin:minilm-l6", dtype="float32")
MIXED = ("full", "lora@linear[top:2]", "lora + prefix_tuning", "lst", "diff_pruning", "lora | lr=0.1 dropout=0.1")


class Never:
    """Traces nothing."""

    def layers(self, *_: Any) -> Any:
        raise AssertionError("traced")

    whole = layers


def table(files: TableFiles, tracer: Any = None) -> MemoryTable:
    return MemoryTable(*on_meta("bert"), torch.float32, LOAD, tracer, files)


def coster(tables: Path, load: Load = LOAD, dtype: torch.dtype = torch.float32) -> MetaCoster:
    machine = Machine(torch.device("cpu"), dtype, "eager")
    return MetaCoster(SPEC, load_config(SPEC, 2), load, machine, tables=tables)


def traces(one: MetaCoster, text: str) -> int:
    one.cost(parse(text))
    return one._tables[1].traces


def test_a_second_table_traces_nothing_and_adds_up_the_same(tmp_path: Path) -> None:
    first = table(TableFiles(tmp_path, "bert"))
    costs = [first.cost(parse(text)) for text in MIXED]
    second = table(TableFiles(tmp_path, "bert"), Never())
    assert [second.cost(parse(text)) for text in MIXED] == costs
    assert first.traces > 0 == second.traces


def test_candidates_are_found_that_were_never_traced_themselves(tmp_path: Path) -> None:
    """A sum of layers that others brought."""
    first = table(TableFiles(tmp_path, "bert"))
    for text in ("lora@linear[bits:01011]", "lora@linear[bits:00111]"):
        first.cost(parse(text))
    second, text = table(TableFiles(tmp_path, "bert"), Never()), "lora(alpha=64)@linear[bits:01111] | lr=0.3"
    assert second.cost(parse(text)) == first.cost(parse(text))


def test_what_another_process_found_meanwhile_is_seen(tmp_path: Path) -> None:
    one, other = TableFiles(tmp_path, "bert"), TableFiles(tmp_path, "bert")
    assert one.find("late") is None
    other.add({"late": 1})
    assert one.find("late") == 1


def test_a_study_that_is_begun_again_traces_nothing(tmp_path: Path) -> None:
    assert traces(coster(tmp_path), "lora") > 0
    assert traces(coster(tmp_path), "lora") == 0


def test_another_load_type_or_processor_is_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces(coster(tmp_path), "head")
    assert traces(coster(tmp_path, replace(LOAD, length=32)), "head") > 0
    assert traces(coster(tmp_path, dtype=torch.bfloat16), "head") > 0
    assert traces(coster(tmp_path, dtype=torch.bfloat16), "head") == 0
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert traces(coster(tmp_path, dtype=torch.bfloat16), "head") > 0
    assert traces(coster(tmp_path), "head") == 0


def test_other_versions_and_other_code_are_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces(coster(tmp_path), "head")
    said = conditions(measures=False)
    assert {"torch", "transformers", "peft", "code"} == set(said)
    monkeypatch.setattr(table_files, "version", lambda _: "0.1")
    assert traces(coster(tmp_path), "head") > 0
    monkeypatch.setattr(table_files, "_code", lambda: "other")
    assert traces(coster(tmp_path), "head") > 0


def test_where_a_models_folder_lies_is_no_part_of_it(tmp_path: Path) -> None:
    for name in ("one", "other"):
        load_config(SPEC, 2).save_pretrained(tmp_path / name)
        spec = SPEC.model_copy(update={"name": str(tmp_path / name)})
        machine = Machine(torch.device("cpu"), torch.float32, "sdpa")
        last = MetaCoster(spec, load_config(spec, 2), LOAD, machine, tables=tmp_path / "tables")
        last.cost(parse("head"))
    assert last._tables[1].traces == 0


def test_what_is_refused_is_kept_by_nobody(tmp_path: Path) -> None:
    long = replace(LOAD, length=600)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="cannot be trained on 600 tokens"):
            coster(tmp_path, long).cost(parse("lora"))
    assert not list(tmp_path.rglob("*.json"))


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    table(TableFiles(tmp_path, "bert")).cost(parse("lora"))
    (file,) = tmp_path.rglob("*.json")
    whole = file.read_bytes()
    for damaged in (whole[:100], b"[]", b"\xff"):
        file.write_bytes(damaged)
        again = table(TableFiles(tmp_path, "bert"))
        again.cost(parse("lora"))
        assert again.traces > 0
        assert file.read_bytes() == whole


def test_where_nothing_can_be_written_all_is_traced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = table(TableFiles(tmp_path / "file", "bert"))
    assert one.cost(parse("lora")) == table(TableFiles(tmp_path, "bert")).cost(parse("lora"))


def test_tables_that_were_added_to_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "_MOST_TABLES", 3)
    for number in range(5):
        TableFiles(tmp_path, number).add({"at": number})
        for age, folder in enumerate(sorted(tmp_path.iterdir(), key=lambda one: one.stat().st_mtime_ns)):
            os.utime(folder, (age, age))
    assert len(list(tmp_path.iterdir())) == 3
    assert [TableFiles(tmp_path, number).find("at") for number in range(5)] == [None, None, 2, 3, 4]


def _add(root: Path, own: int) -> None:
    files = TableFiles(root, "bert")
    for number in range(40):
        files.add({f"common {number}": list(range(1000))})
        files.add({f"{own} {number}": own})


def test_processes_at_the_same_time_harm_no_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(tmp_path, own)) for own in range(3)]
    for one in writers:
        one.start()
    while any(one.is_alive() for one in writers):
        for file in tmp_path.rglob("*.json"):
            json.loads(file.read_bytes())
    assert [one.exitcode for one in writers] == [0, 0, 0]
    files = TableFiles(tmp_path, "bert")
    assert all(files.find(f"common {number}") == list(range(1000)) for number in range(40))
    assert all(files.find(f"{own} {number}") == own for own in range(3) for number in range(40))
    assert not [one for one in tmp_path.rglob(".*") if one.is_file()]
