"""Prefixes on some layers: those layers see what they hold, the others see none of it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from search_space.errors import UnsupportedError
from search_space.notation import parse
from search_space.placement import Anatomy
from tests.architectures import tiny_inputs, tiny_model

MODELS = ("bert", "electra", "llama", "gpt2", "opt", "qwen2")


def prefixed(architecture: str, layers: str) -> tuple[Attached, Anatomy]:
    """Attach a prefix with values far from zero."""
    model = tiny_model(architecture, num_labels=3).requires_grad_(False)
    anatomy = anatomy_of(model)
    one = attach(model, anatomy, parse(f"prefix_tuning(num_virtual_tokens=4)@[{layers}]"))
    torch.manual_seed(1)
    for parameter in one.parts[0]:
        parameter.data.normal_()
    return one, anatomy


def watched(one: Attached, anatomy: Anatomy, layer: int, architecture: str) -> tuple[nn.Module, dict[str, Any], Tensor]:
    """Run a model; return one of its blocks, what the block was given by name, and the hidden states it gave."""
    block = one.model.get_base_model().get_submodule(anatomy.blocks[layer].name)
    seen: list[Any] = []
    block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(inspect.signature(module.forward).bind(*args, **kwargs).arguments),
        with_kwargs=True,
    )
    block.register_forward_hook(lambda module, args, output: seen.append(output))
    one.model(**tiny_inputs(architecture))
    given, output = seen
    return block, dict(given), output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize(("layers", "bare"), [("bits:10", 1), ("bits:01", 0)])
def test_a_layer_without_a_prefix_attends_as_if_there_were_none(architecture: str, layers: str, bare: int) -> None:
    one, anatomy = prefixed(architecture, layers)
    block, given, output = watched(one, anatomy, bare, architecture)
    extra = given.pop("kwargs", {})
    mask = {**given, **extra}["attention_mask"]
    tokens = output.shape[1]
    assert mask is None or mask.shape[-2:] == (tokens, tokens)
    for arguments in (given, extra):
        if "past_key_values" in arguments:
            arguments["past_key_values"] = None
    again = block(**given, **extra)
    assert torch.equal(again if isinstance(again, Tensor) else again[0], output)


@pytest.mark.parametrize("architecture", MODELS)
def test_bits_of_all_layers_are_plain_prefix_tuning(architecture: str) -> None:
    inputs = tiny_inputs(architecture)
    some, _ = prefixed(architecture, "bits:11")
    model = tiny_model(architecture, num_labels=3).requires_grad_(False)
    plain = attach(model, anatomy_of(model), parse("prefix_tuning(num_virtual_tokens=4)"))
    torch.manual_seed(1)
    for parameter in plain.parts[0]:
        parameter.data.normal_()
    assert torch.equal(some.model(**inputs).logits, plain.model(**inputs).logits)


@pytest.mark.parametrize("architecture", MODELS)
def test_a_prefix_changes_the_output_from_either_layer_and_only_chosen_layers_cost(architecture: str) -> None:
    first, _ = prefixed(architecture, "bits:10")
    last, _ = prefixed(architecture, "bits:01")
    both, _ = prefixed(architecture, "bits:11")
    assert first.trainable_params == last.trainable_params == both.trainable_params / 2
    for one in (first, last):
        outputs = one.model(**tiny_inputs(architecture)).logits
        outputs.sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in one.parts[0])


@pytest.mark.parametrize(
    ("architecture", "what"), [("t5", "an encoder and a decoder"), ("gemma2", "see a window only")]
)
def test_where_layers_cannot_be_told_apart_it_is_said(architecture: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        prefixed(architecture, "bits:1000" if architecture == "t5" else "bits:10")


@pytest.mark.parametrize("architecture", MODELS)
def test_lengths_of_each_layer_are_those_of_prefixes_that_are_cut(architecture: str) -> None:
    """A prefix of 2 beside one of 5 gives what its layer gave alone: the mask and the cache are cut to it."""
    model = tiny_model(architecture, num_labels=3).requires_grad_(False)
    anatomy = anatomy_of(model)
    one = attach(model, anatomy, parse("prefix_tuning(num_virtual_tokens=2/5)"))
    sizes = [parameter.numel() for parameter in one.parts[0]]
    assert sizes[0] * 5 == sizes[1] * 2
    assert one.trainable_params == sum(sizes)
    _, given, output = watched(one, anatomy, 0, architecture)
    mask = {**given, **given.get("kwargs", {})}["attention_mask"]
    assert mask is None or mask.shape[-1] == output.shape[1] + 2
    _, given, _ = watched(one, anatomy, 1, architecture)
    mask = {**given, **given.get("kwargs", {})}["attention_mask"]
    assert mask is None or mask.shape[-1] == output.shape[1] + 5


def test_equal_lengths_for_each_layer_are_plain_prefix_tuning() -> None:
    assert parse("prefix_tuning(num_virtual_tokens=4/4)") == parse("prefix_tuning(num_virtual_tokens=4)")
