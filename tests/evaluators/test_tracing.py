"""Tracing in a process of its own: the same numbers, and an error with a name where it dies or hangs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.anatomy import anatomy_of
from evaluators.backbone import build_on_meta
from evaluators.memory import Load
from evaluators.memory_table import MemoryTable
from evaluators.tracing import Subject, TracingProcess
from search_space.errors import PlacementError, TracingError, UnsupportedError
from search_space.notation import parse
from tests.evaluators.test_memory_table import LOAD, on_meta

ANSWER = '{"found": 7}'


@pytest.fixture(scope="module")
def process() -> Iterator[TracingProcess]:
    with TracingProcess() as one:
        yield one


@pytest.mark.parametrize(
    ("name", "dtype", "texts"),
    [
        (
            "bert",
            torch.float32,
            ("full", "prefix_tuning(num_virtual_tokens=8)", "lora | lr=0.1 dropout=0.1", "diff_pruning"),
        ),
        ("llama", torch.bfloat16, ("head", "serial_adapter + bitfit + lora@mlp.up[top:1]", "lst@[top:4]")),
        ("gpt2", torch.float32, ("lora(r=32,use_dora=true)@linear[top:3]",)),
        ("modernbert", torch.float32, ("full@[top:2]",)),
        ("t5", torch.float32, ("lora",)),
    ],
)
def test_what_another_process_traces_is_what_this_one_does(
    process: TracingProcess, name: str, dtype: torch.dtype, texts: tuple[str, ...]
) -> None:
    config: Any = on_meta(name)[0].config
    model = build_on_meta(config, "sdpa", dtype)
    anatomy = anatomy_of(model)
    tracer = process.of(Subject.of(config, "sdpa", dtype, anatomy))
    here, there = (MemoryTable(model, anatomy, dtype, LOAD, one) for one in (None, tracer))
    for text in texts:
        assert there.cost(parse(text)) == here.cost(parse(text))
    assert there.traces == here.traces > 0


def remote(process: TracingProcess, name: str, load: Load = LOAD) -> MemoryTable:
    model, anatomy = on_meta(name)
    config: Any = model.config
    tracer = process.of(Subject.of(config, "sdpa", torch.float32, anatomy))
    return MemoryTable(model, anatomy, torch.float32, load, tracer)


def test_what_a_candidate_raises_is_raised_here(process: TracingProcess) -> None:
    with pytest.raises(RuntimeError, match="broadcast"):
        remote(process, "t5").cost(parse("prefix_tuning(num_virtual_tokens=8)"))
    with pytest.raises(UnsupportedError, match="lose a prefix"):
        remote(process, "bert", replace(LOAD, checkpointing=True)).cost(parse("prefix_tuning"))
    with pytest.raises(PlacementError):
        remote(process, "bert").cost(parse("lora@mlp.gate"))


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script be what is begun."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("read line; kill -9 $$", "ended by SIGKILL, as systems do that run out of memory"),
        ("read line; kill -SEGV $$", "ended by SIGSEGV$"),
        ("echo first >&2; echo 'ImportError: no torch' >&2; exit 3", "ended with 3: ImportError: no torch"),
        ("sleep 60", "gave no answer in 0.5 s and was ended"),
    ],
)
def test_a_process_that_dies_or_hangs_is_an_error_with_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    stand_in(tmp_path, monkeypatch, script)
    with TracingProcess(patience=0.5) as one, pytest.raises(TracingError, match=message):
        one.ask({})


def test_after_one_died_the_next_request_begins_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "read line; kill -9 $$")
    with TracingProcess() as one:
        with pytest.raises(TracingError):
            one.ask({})
        stand_in(tmp_path, monkeypatch, f"read line; echo '{ANSWER}'; read line")
        assert one.ask({}) == {"found": 7}


def test_one_that_ended_for_nobody_asked_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ended"
    stand_in(tmp_path, monkeypatch, f"[ -e {mark} ] || {{ touch {mark}; exit 0; }}; read line; echo '{ANSWER}'")
    with TracingProcess() as one:
        assert one.ask({}) == {"found": 7}


def test_one_that_cannot_be_begun_is_an_error_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with TracingProcess() as one, pytest.raises(TracingError, match="cannot be begun"):
        one.start()


@pytest.mark.slow
def test_it_ends_when_nobody_asks() -> None:
    with TracingProcess(idle=0.0) as one:
        one.start()
        child = one._child
        assert child is not None
        assert child._process.wait(60) == 0
