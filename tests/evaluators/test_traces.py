"""Candidates leave no trace: neither on the backbone's outputs, nor on its tensors, nor in memory."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluators.evaluation import WEIGHTS_FOLDER, EvaluatorSpec
from evaluators.trained import TrainedEvaluator
from search_space.candidate import Candidate
from search_space.errors import UnsupportedError
from search_space.notation import parse
from search_space.registry import methods
from search_space.space import at_defaults
from tests.evaluators.tiny import evaluator_spec

HYBRIDS = (
    "lora(r=2)@attention.query[top:1] + bitfit",
    "lora(r=2) + serial_adapter@attention,mlp | dropout=0.1",
    "prefix_tuning + ia3",
    "full@[top:1] + lora(r=2)@attention.value[first:1]",
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3)


@pytest.fixture
def evaluator(spec: EvaluatorSpec) -> TrainedEvaluator:
    return TrainedEvaluator(spec)


def candidates() -> Iterator[Candidate]:
    """Every method at its defaults and some hybrids, for ever."""
    return cycle([*map(at_defaults, methods()), *map(parse, HYBRIDS)])


def train(evaluator: TrainedEvaluator, count: int) -> int:
    """Attach, train and drop so many candidates; returns how many the model could carry."""
    carried = 0
    for number, candidate in enumerate(islice(candidates(), count)):
        try:
            run = evaluator.start(candidate, number)
        except UnsupportedError:
            continue
        run.train(2)
        run._validate()
        carried += 1
    return carried


def digest(model: nn.Module) -> str:
    """SHA-256 of every tensor of a model, with its name."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def outputs(evaluator: TrainedEvaluator) -> Tensor:
    batch = evaluator.tokens["validation"].batch(range(4), evaluator.backbone.device)
    with torch.no_grad():
        logits: Tensor = evaluator.backbone.model(**batch.inputs).logits
    return logits


def alive() -> tuple[int, int]:
    """Tensors and modules that the process holds."""
    gc.collect()
    found = gc.get_objects()
    return sum(isinstance(one, Tensor) for one in found), sum(isinstance(one, nn.Module) for one in found)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_backbone_is_bit_for_bit_itself_after_fifty_candidates(evaluator: TrainedEvaluator) -> None:
    model = evaluator.backbone.model
    before, tensors, modules = outputs(evaluator), digest(model), [type(one) for one in model.modules()]
    assert train(evaluator, 50) >= 40
    assert torch.equal(outputs(evaluator), before)
    assert digest(model) == tensors
    assert [type(one) for one in model.modules()] == modules
    assert not any(one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one) for one in model.modules())
    assert not any(one.requires_grad or one.grad is not None for one in model.parameters())


def test_dropped_candidates_hold_nothing(evaluator: TrainedEvaluator) -> None:
    train(evaluator, 60)  # all methods once: what torch and peft keep for themselves is there
    before = alive()
    train(evaluator, 60)
    assert alive() == before


@pytest.mark.slow
def test_memory_does_not_grow_over_two_hundred_candidates(evaluator: TrainedEvaluator) -> None:
    train(evaluator, 200)  # what torch and peft keep for themselves is there
    before, resident = alive(), resident_bytes()
    train(evaluator, 200)
    assert alive() == before
    assert resident_bytes() - resident < 16 * 2**20


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux to look at the mapped pages")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_a_file_s_pages_and_stay_so(spec: EvaluatorSpec, dtype: str) -> None:
    """Processes of a node share what they map; a page that one of them writes to becomes its own."""
    model = spec.model.model_copy(update={"dtype": dtype})
    evaluator = TrainedEvaluator(replace(spec, model=model))
    train(evaluator, 8)
    pages = mapped_pages(model.name if dtype == "float32" else str(Path(spec.tokens) / WEIGHTS_FOLDER))
    assert pages
    base = [one for name, one in evaluator.backbone.model.named_parameters() if not name.startswith("classifier")]
    for parameter in base:
        address = parameter.untyped_storage().data_ptr()
        assert any(start <= address < stop for start, stop, _ in pages)
    assert sum(own for *_, own in pages) == 0


def mapped_pages(folder: str) -> list[tuple[int, int, int]]:
    """Where this process has a model's safetensors mapped: start, stop, and KiB that became its own by writing."""
    found: list[tuple[int, int, int]] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and ":" not in first:
            inside = bool(rest) and rest[-1].startswith(folder) and rest[-1].endswith(".safetensors")
            if inside:
                start, stop = (int(word, 16) for word in first.split("-"))
                found.append((start, stop, 0))
        elif inside and first == "Anonymous:":
            start, stop, _ = found[-1]
            found[-1] = (start, stop, int(rest[0]))
    return found
