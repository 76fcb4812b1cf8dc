"""Converted weights: written once, equal to the bit, never stale, and only where the file's own do not serve."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from evaluators import backbone, shared_weights
from evaluators.backbone import Backbone, choose_machine, load, load_config
from evaluators.shared_weights import are_of, key_of, weight_files, written_once
from evaluators.spec import ModelSpec
from search_space.errors import DataError
from tests.evaluators.tiny import tiny_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "model", num_labels=3)


def spec(folder: Path, **given: Any) -> ModelSpec:
    return ModelSpec(name=str(folder), **{"device": "cpu", "dtype": "bfloat16", **given})


def copies(shared: Path) -> list[Path]:
    """The copies that hold weights."""
    return sorted(one.parent for one in shared.glob("*/*.safetensors"))


def state(one: Backbone) -> dict[str, Tensor]:
    return dict(one.model.state_dict())


def same(first: Backbone, second: Backbone) -> bool:
    """Whether two backbones have the same tensors, to the bit and by type."""
    one, other = state(first), state(second)
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def logits(one: Backbone) -> Tensor:
    with torch.inference_mode():
        found: Tensor = one.model(torch.arange(4, 20).view(2, 8)).logits
    return found


def seeded(model: ModelSpec, classes: int, shared: Path | None = None) -> Backbone:
    torch.manual_seed(0)  # of the head, where it is drawn
    return load(model, classes, 1, shared)


@pytest.mark.parametrize("classes", [3, 5])  # the file's own head, and one that is drawn
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "gpt2", "llama", "t5"])
def test_they_are_those_that_are_converted_alone(tmp_path: Path, architecture: str, classes: int) -> None:
    model = spec(tiny_folder(tmp_path / "model", architecture, num_labels=3), attention="eager")
    alone, drawn = seeded(model, classes), torch.get_rng_state()
    for _ in range(2):  # who writes the copy, and who finds it
        shared = seeded(model, classes, tmp_path / "shared")
        assert torch.equal(torch.get_rng_state(), drawn)
        assert same(alone, shared)
        assert shared.model.name_or_path == shared.model.config.name_or_path == model.name
        if architecture != "t5":
            assert torch.equal(logits(alone), logits(shared))
    assert len(copies(tmp_path / "shared")) == 1


def test_the_first_converts_and_the_others_do_not(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    load(spec(folder), 3, 1, tmp_path / "shared")
    monkeypatch.setattr(backbone, "_write_converted", lambda *_: pytest.fail("converted again"))
    load(spec(folder), 3, 1, tmp_path / "shared")


@pytest.mark.parametrize(
    ("given", "device"),
    [({"dtype": "float32"}, "cpu"), ({"quantization": "nf4"}, "cpu"), ({"quantization": "int8"}, "cpu"), ({}, "cuda")],
)
def test_what_needs_no_copy_has_none(folder: Path, tmp_path: Path, given: dict[str, str], device: str) -> None:
    model = spec(folder, **given)
    machine = replace(choose_machine(model), device=torch.device(device))
    assert backbone._shared_weights(model, load_config(model, 3), machine, tmp_path / "shared") is None
    assert not (tmp_path / "shared").exists()


def test_no_folder_no_copy(folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    load(spec(folder), 3)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_16_bits_is_shared_in_32(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    halves = {name: one.bfloat16() for name, one in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(halves, file, {"format": "pt"})
    model = spec(folder, dtype="float32")
    assert same(load(model, 3), load(model, 3, 1, tmp_path / "shared"))
    assert are_of(weight_files(str(copies(tmp_path / "shared")[0]), "main"), torch.float32)


def test_another_content_is_another_copy(folder: Path, tmp_path: Path) -> None:
    load(spec(folder), 3, 1, tmp_path / "shared")
    file = folder / "model.safetensors"
    stood = file.stat()
    changed = {name: one + 1 for name, one in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(changed, file, {"format": "pt"})
    os.utime(file, ns=(stood.st_atime_ns, stood.st_mtime_ns + 1))
    assert same(load(spec(folder), 3), load(spec(folder), 3, 1, tmp_path / "shared"))
    assert len(copies(tmp_path / "shared")) == 2


def test_a_key_tells_types_and_configurations_apart(folder: Path) -> None:
    files = weight_files(str(folder), "main")
    keys = {key_of(files, dtype, config) for dtype in (torch.float32, torch.bfloat16) for config in ("{}", "{1}")}
    assert len(keys) == 4


def test_shards_are_all_found(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    one: Any = load(spec(folder, dtype="float32"), 2).model
    (folder / "model.safetensors").unlink()
    one.save_pretrained(folder, max_shard_size="20KB")
    assert weight_files(str(folder), "main") == tuple(sorted(folder.resolve().glob("*.safetensors")))
    assert same(load(spec(folder), 2), load(spec(folder), 2, 1, tmp_path / "shared"))


def test_a_broken_file_is_a_data_error(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"{")
    with pytest.raises(DataError, match="cannot be loaded"):
        load(spec(folder), 3, 1, tmp_path / "shared")


def test_a_copy_that_reads_back_as_another_is_not_used(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    one = load(spec(folder), 3, 1, tmp_path / "shared")
    monkeypatch.undo()
    assert copies(tmp_path / "shared") == []
    assert same(one, load(spec(folder), 3))


def no_room(_folder: Path) -> bool:
    raise OSError(28, "No space left on device")


def half(folder: Path) -> bool:
    (folder / "model.safetensors").write_bytes(b"half")
    raise RuntimeError("cannot be written back")


@pytest.mark.parametrize("write", [no_room, half, lambda _folder: False])
def test_what_cannot_be_written_is_tried_once(tmp_path: Path, write: Callable[[Path], bool]) -> None:
    assert written_once(tmp_path, "key", write) is None
    assert written_once(tmp_path, "key", lambda _folder: pytest.fail("tried again")) is None
    assert sorted(one.name for one in tmp_path.iterdir()) == ["key", "key.lock"]


def test_who_is_killed_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    def end(folder: Path) -> bool:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written_once(tmp_path, "key", end)
    assert copies(tmp_path) == []


def _write_slowly(shared: str, order: Any) -> None:
    def write(folder: Path) -> bool:
        order.put("writes")
        (folder / "model.safetensors").write_bytes(b"whole")
        return True

    copy = shared_weights.written_once(Path(shared), "key", write)
    order.put((copy / "model.safetensors").read_bytes() if copy else None)


def test_of_several_processes_one_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    order = context.Queue()
    processes = [context.Process(target=_write_slowly, args=(str(tmp_path), order)) for _ in range(4)]
    for one in processes:
        one.start()
    said = [order.get(timeout=60) for _ in range(5)]
    for one in processes:
        one.join()
    assert sorted(map(str, said)) == [*["b'whole'"] * 4, "writes"]
