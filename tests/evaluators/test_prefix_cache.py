"""The frozen prefix: equal to a whole forward pass, shared, bounded, and off where it would not be exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import state_files
from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.evaluation import PREFIX_FOLDER, EvaluatorSpec
from evaluators.model_copies import copy_of
from evaluators.prefix_cache import Portion
from evaluators.shortcut import Course, Shortcut
from evaluators.state_files import Shape, StateFile, make_room
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.architectures import ARCHITECTURES, tiny_inputs, tiny_model
from tests.evaluators.tiny import evaluator_spec

LAYERS = 3
TOP = "lora(r=2)@attention.query,attention.value[top:1] | lr=0.02"
FIRST_LADDER = {"swin": 1}
"""Layers of the first side network where there is one for each stage."""
HALTED = {"t5": "gives more than hidden states", "clip": "do not run once each"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3, num_hidden_layers=LAYERS)


def evaluator_of(spec: EvaluatorSpec, cache: int | None = None, **fields: object) -> TrainedEvaluator:
    fields |= {} if cache is None else {"prefix_cache": cache}
    return TrainedEvaluator(replace(spec, training=spec.training.model_copy(update=fields)))


@pytest.fixture
def cached(spec: EvaluatorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedEvaluator:
    monkeypatch.setattr("evaluators.trained.PREFIX_FOLDER", str(tmp_path))
    return evaluator_of(spec)


@pytest.fixture
def whole(spec: EvaluatorSpec) -> TrainedEvaluator:
    return evaluator_of(spec, cache=0)


def run_of(evaluator: TrainedEvaluator, text: str, seed: int = 0) -> TrainedRun:
    return evaluator.start(parse(text), seed)


def state_of(run: TrainedRun) -> dict[str, torch.Tensor]:
    return run.attached.state(run.evaluator.backbone.storages)


def bare_model(architecture: str) -> nn.Module:
    model = tiny_model(architecture).requires_grad_(False)
    model.config.pad_token_id = 0
    return model


def with_padding(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if "attention_mask" in inputs:
        inputs["input_ids"][0, -3:] = 0
        inputs["input_ids"][0, -4] = 2
        inputs["attention_mask"][0, -3:] = 0
    return inputs


def without_padding(states: dict[int, torch.Tensor], inputs: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    if "attention_mask" not in inputs:
        return states
    # What stands in padding is not stored, and must not matter.
    return {depth: one * inputs["attention_mask"][..., None] for depth, one in states.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_the_same_bits_or_says_why_not(architecture: str) -> None:
    model = bare_model(architecture)
    anatomy, inputs = anatomy_of(model), with_padding(tiny_inputs(architecture))
    if architecture in HALTED:
        with pytest.raises(UnsupportedError, match=HALTED[architecture]):
            Course(copy_of(model), anatomy, inputs)
        return
    course = Course(copy_of(model), anatomy, inputs)
    names = [block.name for block in anatomy.blocks[: course.depth]]
    reader = copy_of(model)
    below = Shortcut(reader, names, course.entries)
    for depth in range(1, len(names) + 1):
        candidate = copy_of(model)
        assert course.unchanged_layers(model, candidate) == len(names)
        shortcut = Shortcut(candidate, names, course.entries)
        trained = [*anatomy.head, *names[depth:]]
        parameters = [
            one for name in trained for one in candidate.get_submodule(name).requires_grad_(True).parameters()
        ]
        with torch.no_grad():
            states = without_padding(below.states_after([depth], reader, inputs), inputs)
        found = []
        for begin in ({}, states):
            with shortcut.beginning(begin):
                logits = candidate(**inputs).logits
            gradients = torch.autograd.grad(logits.square().sum(), parameters, materialize_grads=True)
            found.append((logits, *gradients))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    "text", ["lst(heads=2,reduction=4)", "lst(heads=1,reduction=4,side_block=feed_forward)@[top:1]"]
)
@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if one not in HALTED])
def test_side_networks_read_stored_states_on_every_architecture(architecture: str, text: str) -> None:
    model = bare_model(architecture)
    anatomy, inputs = anatomy_of(model), with_padding(tiny_inputs(architecture))
    try:
        attached = attach(model, anatomy, parse(text))
    except UnsupportedError as error:
        pytest.skip(str(error))
    candidate, reader = attached.model, copy_of(model)
    for name, parameter in candidate.named_parameters():
        if "lst_up" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    course = Course(copy_of(model), anatomy, inputs)
    names = [block.name for block in anatomy.blocks[: course.depth]]
    depth = course.unchanged_layers(model, candidate)
    reads = course.depths_read(candidate, depth)
    assert depth == FIRST_LADDER.get(architecture if "top:1" not in text else "", len(names))
    assert reads[-1] == depth
    assert "top:1" in text or reads == tuple(range(1, depth + 1))
    below, above = Shortcut(reader, names, course.entries), Shortcut(candidate, names, course.entries)
    with torch.no_grad():
        states = without_padding(below.states_after(reads, reader, inputs), inputs)
    found = []
    for begin in ({}, states):
        with above.beginning(begin):
            logits = candidate(**inputs).logits
        gradients = torch.autograd.grad(logits.square().sum(), attached.trainable, materialize_grads=True)
        found.append((logits, *gradients))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "depth", "reads"),
    [
        ("lst(heads=2)", LAYERS, (1, 2, 3)),
        ("lst(heads=2)@[top:2]", LAYERS, (1, 2, 3)),
        ("lst(heads=2)@[top:1]", LAYERS, (2, 3)),
        ("lst(heads=2)@[first:2]", 2, (1, 2)),
        ("lst(heads=2) + lora(r=2)@attention.query[top:1]", 2, (1, 2)),
        ("lst(heads=2) + lora(r=2)@attention.query", 0, ()),
        (TOP, LAYERS - 1, (2,)),
    ],
)
def test_a_side_network_leaves_the_layers_that_it_reads(
    cached: TrainedEvaluator, whole: TrainedEvaluator, text: str, depth: int, reads: tuple[int, ...]
) -> None:
    one, other = run_of(cached, text), run_of(whole, text)
    assert (one.forward.depth, one.forward._reads) == (depth, reads)
    steps = len(cached.tokens["train"].ids) // cached.spec.training.batch_size
    assert one.advance(steps)["nll"] == pytest.approx(other.advance(steps)["nll"], rel=1e-5)
    assert bool(one.forward.why_whole) == (depth == 0)
    states = state_of(one), state_of(other)
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-6)


def test_dropout_in_layers_that_a_side_network_reads_is_drawn_anew(cached: TrainedEvaluator) -> None:
    run = run_of(cached, "lst(heads=2) | lr=0.01 dropout=0.1")
    run.train(1)
    assert run.forward.why_whole == "dropout below the candidate's lowest change"


def test_all_that_a_side_network_reads_has_to_fit(spec: EvaluatorSpec, whole: TrainedEvaluator) -> None:
    tokens = sum(len(ids) for one in whole.tokens.values() for ids in one.ids)
    width = whole.backbone.model.config.hidden_size
    evaluator = evaluator_of(spec, cache=2 * tokens * width * 4)
    for text, why in (("lst(heads=2)", "the study's states need"), ("lst(heads=2)@[top:1]", "")):
        run = run_of(evaluator, text)
        run.train(1)
        assert run.forward.why_whole.startswith(why)
        assert bool(run.forward.why_whole) == bool(why)


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("head", LAYERS),
        (TOP, LAYERS - 1),
        ("lora(r=2)@attention.query[top:2]", 1),
        ("full@[top:1]", LAYERS - 1),
        ("bitfit@mlp[top:1]", LAYERS - 1),
        ("lora(r=2)@attention.query[top:1] + serial_adapter@attention,mlp[top:2]", 1),
        ("lora(r=2)", 0),
        ("lora(r=2)@embeddings", 0),
        ("full", 0),
        ("bitfit", 0),
        ("prompt_tuning", 0),
        ("prefix_tuning", 0),
    ],
)
def test_the_depth_is_that_of_the_lowest_change(cached: TrainedEvaluator, text: str, depth: int) -> None:
    forward = run_of(cached, text).forward
    assert forward.depth == depth
    assert bool(forward.why_whole) == (depth == 0)


@pytest.mark.parametrize("text", ["head", TOP, "full@[top:2] | lr=0.01", TOP + " mixup=0.4"])
def test_the_first_pass_and_every_evaluation_have_the_same_bits(
    cached: TrainedEvaluator, whole: TrainedEvaluator, text: str
) -> None:
    steps = len(cached.tokens["train"].ids) // cached.spec.training.batch_size
    one, other = run_of(cached, text), run_of(whole, text)
    assert one.advance(steps).values == other.advance(steps).values
    assert one.forward.depth
    assert not one.forward.why_whole
    assert np.array_equal(one.logits["validation"], other.logits["validation"])
    states = state_of(one), state_of(other)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_layers_that_are_computed_again_start_from_stored_states_too(spec: EvaluatorSpec) -> None:
    runs = []
    for cache in (0, 2**20):
        evaluator = evaluator_of(spec, cache=cache, gradient_checkpointing=True)
        runs.append(run_of(evaluator, "lora(r=2)@attention.query,attention.value[top:2] | lr=0.02"))
        runs[-1].train(5)
    assert (runs[0].forward.depth, runs[1].forward.depth) == (0, 1)
    states = state_of(runs[0]), state_of(runs[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_later_passes_are_equal_up_to_rounding(cached: TrainedEvaluator, whole: TrainedEvaluator) -> None:
    one, other = run_of(cached, TOP), run_of(whole, TOP)
    for run in (one, other):
        run.train(3 * len(cached.tokens["train"].ids) // cached.spec.training.batch_size)
    states = state_of(one), state_of(other)
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-6)


def test_what_is_stored_does_not_depend_on_who_came_first(spec: EvaluatorSpec, tmp_path: Path, monkeypatch) -> None:
    found = []
    for folder, order in (("one", ("head", TOP)), ("other", (TOP, "head"))):
        monkeypatch.setattr("evaluators.trained.PREFIX_FOLDER", str(tmp_path / folder))
        evaluator = evaluator_of(spec)
        runs = {text: run_of(evaluator, text) for text in order}
        for run in runs.values():
            run.advance(12)
        found.append(runs)
    for text in (TOP, "head"):
        assert np.array_equal(found[0][text].logits["validation"], found[1][text].logits["validation"])


def test_the_test_split_starts_from_stored_states_too(cached: TrainedEvaluator, whole: TrainedEvaluator) -> None:
    scores = []
    for evaluator in (cached, whole):
        run = run_of(evaluator, TOP)
        run.advance(evaluator.spec.steps)
        scores.append(run.test())
    assert scores[0]["accuracy"] == scores[1]["accuracy"]
    assert scores[0]["nll"] == pytest.approx(scores[1]["nll"], rel=1e-4)


def test_another_process_computes_nothing_again(cached: TrainedEvaluator) -> None:
    one = run_of(cached, TOP)
    one.advance(12)
    other_process = TrainedEvaluator(cached.spec)

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    other_process.prefix._compute = refuse  # type: ignore[method-assign]
    other = run_of(other_process, TOP)
    other.advance(12)
    assert np.array_equal(one.logits["validation"], other.logits["validation"])


def test_a_deeper_file_is_filled_from_a_shallower_one(cached: TrainedEvaluator) -> None:
    run_of(cached, "lora(r=2)@attention.query[top:2]").advance(12)
    below = []
    nearest = cached.prefix._nearest
    cached.prefix._nearest = lambda *given: below.append(nearest(*given)) or below[-1]  # type: ignore[method-assign]
    run_of(cached, "head").advance(12)
    assert below
    assert {tuple(one) for one in below} == {(1,)}


def test_dropout_is_drawn_anew_in_training_and_evaluation_is_cached(cached: TrainedEvaluator) -> None:
    run = run_of(cached, TOP + " dropout=0.1")
    run.train(1)
    assert run.forward.why_whole == "dropout below the candidate's lowest change"
    run._validate()
    assert run.forward.why_whole == ""
    assert run.forward.depth == LAYERS - 1


def test_a_model_that_draws_in_its_lower_layers_trains_whole(cached: TrainedEvaluator) -> None:
    layer = cached.prefix._reader.get_submodule(cached.anatomy.blocks[0].name)
    layer.register_forward_hook(lambda module, _, out: nn.functional.dropout(out, 0.5, module.training))
    run = run_of(cached, TOP)
    run.train(1)
    assert "random numbers" in run.forward.why_whole
    run._validate()
    assert run.forward.why_whole == ""


def test_a_model_that_gives_something_else_is_run_whole(cached: TrainedEvaluator, whole: TrainedEvaluator) -> None:
    layer = cached.prefix._reader.get_submodule(cached.anatomy.blocks[-1].name)
    layer.register_forward_hook(lambda module, args, out: out + cached.prefix._shortcut._begin)
    one, other = run_of(cached, TOP), run_of(whole, TOP)
    assert one.advance(4).values == other.advance(4).values
    assert "something else" in one.forward.why_whole


def test_states_over_the_limit_are_not_stored(spec: EvaluatorSpec, whole: TrainedEvaluator) -> None:
    small = evaluator_of(spec, cache=1000)
    one, other = run_of(small, TOP), run_of(whole, TOP)
    assert one.advance(12)["nll"] == other.advance(12)["nll"]
    assert "training.prefix_cache is 1000 B" in one.forward.why_whole


def test_no_room_on_the_disk_is_no_failure(
    cached: TrainedEvaluator, whole: TrainedEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "_reserve", full)
    one, other = run_of(cached, TOP), run_of(whole, TOP)
    assert one.advance(4).values == other.advance(4).values
    assert "No space left" in one.forward.why_whole


def test_a_file_that_was_deleted_is_made_again(cached: TrainedEvaluator, tmp_path: Path) -> None:
    first = run_of(cached, TOP).advance(4)
    for path in tmp_path.iterdir():
        path.unlink()
    assert run_of(cached, TOP).advance(4).values == first.values
    assert list(tmp_path.glob("*.states"))


def test_the_files_lie_in_the_folder_of_the_tokens(spec: EvaluatorSpec) -> None:
    run_of(evaluator_of(spec), TOP).train(1)
    assert list((Path(spec.tokens) / PREFIX_FOLDER).glob("*.states"))


def test_room_is_made_by_deleting_what_is_worth_least(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.states" for name in "abc"}
    for path in paths.values():
        StateFile(path, Shape((2, 3), 2, torch.float32))
    size = Shape((2, 3), 2, torch.float32).size
    new = tmp_path / "new.states"
    assert make_room(tmp_path, {new: size}, 4 * size, {}) == []
    assert make_room(tmp_path, {new: size, **dict.fromkeys(paths.values(), size)}, size, {}) == []
    gone = make_room(tmp_path, {new: size}, 2 * size, {paths["a"]: 5, paths["b"]: 9, paths["c"]: 7})
    assert gone == [paths["a"], paths["c"]]
    assert {path.name for path in tmp_path.iterdir()} == {"b.states", "b.there"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_file_gives_back_what_it_was_given(tmp_path: Path, dtype: torch.dtype) -> None:
    shape = Shape((2, 3, 1), 4, dtype)
    file = StateFile(tmp_path / "x.states", shape)
    assert file.lacking([0, 1, 2]) == [0, 1, 2]
    states = torch.randn(2, 3, 4).to(dtype)
    file.write([2, 1], states)
    again = StateFile(tmp_path / "x.states", shape)
    assert again.lacking([0, 1, 2]) == [0]
    read = again.read([1, 2], 5)
    assert read.shape == (2, 5, 4)
    assert torch.equal(read[0, :3], states[1])
    assert torch.equal(read[1, :1], states[0, :1])
    assert not read[0, 3:].any()
    assert not read[1, 1:].any()


def test_every_example_is_in_one_group(whole: TrainedEvaluator) -> None:
    tokens = whole.tokens["train"]
    for groups in (tokens.first_pass(8, 3), tokens.by_length(7)):
        portion = Portion("x", tokens, groups)
        assert sorted(index for group in groups for index in group) == list(range(len(tokens.ids)))
        assert all(index in portion.groups[number] for index, number in portion.group_of.items())
