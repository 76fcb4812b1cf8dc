"""Steps divided into parts: the gradient of the whole batch, less memory as predicted, no more parts than needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluators.attach import attach
from evaluators.backbone import load_config
from evaluators.costing import MetaCoster, _divisions
from evaluators.evaluation import EvaluatorSpec
from evaluators.memory import Load, predict_step
from evaluators.score import Cost
from evaluators.spec import ModelSpec
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.notation import parse
from tests.evaluators.test_memory_table import LOAD, on_meta, table
from tests.evaluators.tiny import evaluator_spec, tiny_folder

TEXTS = ("lora(r=4) | lr=0.02", "full | lr=0.01 label_smoothing=0.1", "adalora | lr=0.01")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3)


def gradients(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return the gradients of a run's first step."""
    found: list[torch.Tensor] = []
    monkeypatch.setattr(run, "descend", lambda: found.extend(one.grad.clone() for one in run.attached.trainable))
    monkeypatch.setattr(run.schedule, "step", lambda: None)
    run.train(1)
    return found


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_the_gradient_is_that_of_the_whole_batch(
    spec: EvaluatorSpec, monkeypatch: pytest.MonkeyPatch, text: str, parts: int
) -> None:
    """Eight examples in parts of four, of three, three and two, and of one: with the penalty of AdaLoRA once."""
    evaluator = TrainedEvaluator(spec)
    whole = gradients(evaluator.start(parse(text), 0), monkeypatch)
    divided = gradients(evaluator.start(parse(text), 0, parts), monkeypatch)
    for one, other in zip(whole, divided, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_divided_training_ends_where_a_whole_one_does(spec: EvaluatorSpec) -> None:
    evaluator = TrainedEvaluator(spec)
    given = TrainedEvaluator(replace(spec, training=spec.training.model_copy(update={"accumulate": 4})))
    assert given.start(parse(TEXTS[0]), 0).at_once == 2
    whole, divided = evaluator.start(parse(TEXTS[0]), 0).advance(12), given.start(parse(TEXTS[0]), 0).advance(12)
    assert divided["nll"] == pytest.approx(whole["nll"], rel=1e-3)
    assert divided["peak_memory_bytes"] < whole["peak_memory_bytes"]


DIVIDED = LOAD.divided(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", ["full", "serial_adapter + bitfit + lora@mlp.up[top:1]"])
def test_the_table_adds_up_to_a_part_of_a_step_after_another(text: str, dtype: torch.dtype) -> None:
    whole = predict_step(attach(*on_meta("bert", dtype), parse(text)), dtype, DIVIDED)
    assert table("bert", DIVIDED, dtype).cost(parse(text)).peak_bytes == pytest.approx(whole.peak_bytes, rel=0.01)


def test_a_part_of_a_step_has_its_share_of_the_examples() -> None:
    assert Load(10, 8, 4).divided(3) == Load(4, 8, 4, accumulated=True)
    assert Load(10, 8, 4).divided(1) == Load(10, 8, 4)


@cache
def coster(folder: Path, accumulate: str | int) -> Callable[..., Cost]:
    model = ModelSpec(name=str(tiny_folder(folder)), dtype="float32", device="cpu")
    return MetaCoster(model, load_config(model, 3), Load(8, 32, 8), accumulate=accumulate).cost  # type: ignore[arg-type]


def test_steps_are_divided_no_further_than_a_limit_wants(tmp_path_factory: pytest.TempPathFactory) -> None:
    cost, one = coster(tmp_path_factory.mktemp("model"), "auto"), parse("lora")
    free = cost(one)
    assert free.accumulation is None
    peaks = {free.accumulation: free.peak_memory_bytes}
    limit = free.peak_memory_bytes
    while limit and len(peaks) < 5:
        found = cost(one, limit - 1)
        peaks[found.accumulation] = limit = found.peak_memory_bytes
    assert list(peaks) == [None, 2, 3, 4, 8], "the largest parts are of 8, 4, 3, 2 and 1"
    assert list(peaks.values()) == sorted(peaks.values(), reverse=True)  # type: ignore[type-var]
    assert cost(one, peaks[4]).accumulation == 4
    assert cost(one, 1.0).accumulation == 8, "what never fits is told with the least that it takes"
    assert Cost.from_json(found.to_json()) == found
    assert "accumulation" not in found.values


@pytest.mark.parametrize("batch", [1, 2, 5, 24, 32, 63])
def test_the_largest_batch_that_fits_is_found_in_a_few_looks(batch: int) -> None:
    """Of all ways to divide a step: what is over a limit by little is looked at twice, and by much a few times."""
    sizes = [-(-batch // parts) for parts in range(1, batch + 1)]
    looked: list[int] = []

    def divided(_: object, parts: int) -> Cost:
        looked.append(parts)
        return Cost(1, 1, 100 * sizes[parts - 1], accumulation=parts)

    stand_in = SimpleNamespace(_divisions=tuple(_divisions(batch)), _divided=divided)
    stand_in._least_divided = partial(MetaCoster._least_divided, stand_in)
    for most in range(1, batch + 2):
        looked.clear()
        found = MetaCoster.cost(stand_in, parse("lora"), 100.0 * most)  # type: ignore[arg-type]
        assert found.accumulation == 1 + next(at for at, size in enumerate(sizes) if size <= most)
        assert len(looked) <= (1 if most >= batch else 2 if most >= sizes[1] else 2 * batch.bit_length())
    assert MetaCoster.cost(stand_in, parse("lora"), 1.0).accumulation == batch  # type: ignore[arg-type]


def test_a_number_of_parts_is_taken_as_it_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert coster(tmp_path_factory.mktemp("model"), 4)(parse("lora"), 1e12).accumulation == 4
