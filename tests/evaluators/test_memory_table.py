"""The table of layers: what it adds up is what a whole step costs, and it is filled once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.memory import Load, StepCost, predict_step
from evaluators.memory_table import MemoryTable
from evaluators.specimens import TEXT_SPECIMENS, without_weights
from search_space.capability import can
from search_space.errors import PlacementError, UnsupportedError
from search_space.notation import parse
from search_space.placement import Anatomy
from tests.architectures import tiny_model

LAYERS = 5
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
SIZES = {
    "gpt2": {"n_embd": 64, "n_layer": LAYERS, "n_head": 4},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 4, "num_decoder_layers": LAYERS},
    "bart": {"d_model": 64, "encoder_layers": 4, "decoder_layers": LAYERS, "encoder_ffn_dim": 128}
    | {"decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
}
CANDIDATES = (
    "head",
    "full",
    "full@[top:2]",
    "lora@linear",
    "lora(r=32,use_dora=true)@linear[top:3]",
    "bitfit",
    "serial_adapter@mlp.down[first:2]",
    "prefix_tuning(num_virtual_tokens=8)",
    "lst@[top:4]",
    "lora + prefix_tuning(num_virtual_tokens=4)",
    "serial_adapter + bitfit + lora@mlp.up[top:1]",
)
LOAD = Load(4, 24, 6)


@cache
def on_meta(name: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> tuple[nn.Module, Anatomy]:
    with torch.device("meta"):
        model = tiny_model(name, **SIZES.get(name, WIDE), attn_implementation=attention)
    model.requires_grad_(False).to(dtype)
    return model, anatomy_of(model)


def table(name: str, load: Load = LOAD, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> MemoryTable:
    return MemoryTable(*on_meta(name, dtype, attention), dtype, load)


def whole(
    name: str, text: str, load: Load = LOAD, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> StepCost:
    return predict_step(attach(*on_meta(name, dtype, attention), parse(text)), dtype, load)


def assert_equal(one: StepCost, other: StepCost) -> None:
    assert one.peak_bytes == pytest.approx(other.peak_bytes, rel=0.005)
    assert one.inference_bytes == pytest.approx(other.inference_bytes, rel=0.005)
    assert one.forward_flops == pytest.approx(other.forward_flops, rel=1e-6)
    assert one.training_flops == pytest.approx(other.training_flops, rel=1e-6)


@pytest.mark.parametrize("text", CANDIDATES)
def test_a_sum_over_layers_is_the_whole_step(text: str) -> None:
    assert_equal(table("bert").cost(parse(text)), whole("bert", text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama", "lora@linear[top:2]"),
        ("llama", "lst"),
        ("gpt2", "prefix_tuning(num_virtual_tokens=4)"),
        ("modernbert", "full"),
    ],
)
def test_on_other_architectures(name: str, text: str) -> None:
    assert_equal(table(name).cost(parse(text)), whole(name, text))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "distilbert", "electra", "mistral", "qwen3", "gemma3", "phi3", "opt"])
@pytest.mark.parametrize("text", CANDIDATES)
def test_on_every_architecture_of_one_stack(name: str, text: str) -> None:
    try:
        expected = whole(name, text)
    except (UnsupportedError, PlacementError, ValueError):  # the model cannot carry it, which others test
        return
    assert_equal(table(name).cost(parse(text)), expected)


@pytest.mark.parametrize("text", ["full", "lora@linear[top:2]", "lst"])
def test_with_activations_computed_again(text: str) -> None:
    load = replace(LOAD, checkpointing=True)
    once, again = table("bert").cost(parse(text)), table("bert", load).cost(parse(text))
    assert_equal(again, whole("bert", text, load))
    assert once.training_flops <= again.training_flops <= once.training_flops + once.forward_flops
    assert again.peak_bytes <= once.peak_bytes


@pytest.mark.parametrize("text", ["full", "serial_adapter + bitfit"])
def test_in_bfloat16_with_eager_attention(text: str) -> None:
    one = table("bert", LOAD, torch.bfloat16, "eager").cost(parse(text))
    assert_equal(one, whole("bert", text, LOAD, torch.bfloat16, "eager"))


def test_examples_that_are_evaluated_may_be_longer_than_those_of_training() -> None:
    """What training takes is as before; inference takes what it does where all examples are as long."""
    mixed, short, long = (
        table("bert", load).cost(parse("lora"))
        for load in (replace(LOAD, evaluation_length=48), LOAD, replace(LOAD, length=48))
    )
    assert (mixed.peak_bytes, mixed.training_flops) == (short.peak_bytes, short.training_flops)
    assert (mixed.inference_bytes, mixed.forward_flops) == (long.inference_bytes, long.forward_flops)
    assert mixed.inference_bytes > short.inference_bytes
    assert_equal(mixed, whole("bert", "lora", replace(LOAD, evaluation_length=48)))


def test_dropout_is_another_table() -> None:
    one, text = table("bert"), "lora | lr=0.1 dropout=0.1"
    plain = one.cost(parse("lora"))
    assert_equal(one.cost(parse(text)), whole("bert", text))
    assert one.cost(parse(text)).peak_bytes > plain.peak_bytes


def test_layers_that_are_alike_are_traced_once() -> None:
    one = table("bert")
    one.cost(parse("lora@linear[bits:01011]"))
    one.cost(parse("lora@linear"))
    traces = one.traces
    for text in ("lora@linear[top:3]", "lora(alpha=64)@linear[bits:01111]", "lora@linear[bits:00011] | lr=0.3"):
        assert_equal(one.cost(parse(text)), whole("bert", text))
    assert one.traces <= traces + 2
    traces = one.traces
    one.cost(parse("lora@linear[bits:00111]"))
    assert one.traces == traces


def test_the_way_back_ends_at_the_lowest_layer_that_is_trained() -> None:
    one = table("bert")
    flops = [one.cost(parse(f"lora@linear[top:{count}]")).training_flops for count in range(1, LAYERS)]
    assert flops == sorted(flops)
    assert one.cost(parse("head")).training_flops < flops[0]
    assert one.cost(parse("head")).forward_flops == pytest.approx(one.cost(parse("full")).forward_flops)
    full = one.cost(parse("full"))
    assert full.training_flops == pytest.approx(3 * full.forward_flops, rel=0.02)


@pytest.mark.parametrize("name", TEXT_SPECIMENS)
def test_every_architecture_that_classifies_text_is_costed(name: str) -> None:
    """With memory and arithmetic, as far as the table of capabilities says that it carries a candidate."""
    model = without_weights(name)
    one = MemoryTable(model, anatomy_of(model), torch.float32, LOAD)
    carried = ["head", "lora", *(["prefix_tuning"] if name in can("prefix_tuning", "trains") else [])]
    found = {text: one.cost(parse(text)) for text in carried}
    for cost in found.values():
        assert found["head"].peak_bytes <= cost.peak_bytes
        assert cost.inference_bytes > 0
        assert 0 < cost.forward_flops < cost.training_flops


def test_losses_over_all_layers_and_networks_beside_two_stacks_are_no_sums() -> None:
    assert not table("t5").takes(parse("lst"))
    assert not table("bert").takes(parse("diff_pruning"))


IN_TURN = (
    "full",
    "lora@linear",
    "lora@linear[top:2]",
    "head",
    "full@[top:6]",
    "bitfit",
    "lora@embeddings,attention",
    "lora@linear[first:2]",
    "serial_adapter@mlp.down[bits:010101010]",
    "lora@mlp[band:4-4]",
    "ia3 + lora@attention.query[top:7]",
)


@pytest.mark.parametrize(("name", "text"), [("t5", "lora@linear[top:6]"), ("bart", "full"), ("bart", "lora@linear")])
def test_an_encoder_and_a_decoder_are_a_sum_too(name: str, text: str) -> None:
    assert_equal(table(name).cost(parse(text)), whole(name, text))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_and_a_decoder_are_a_sum_of_every_candidate(name: str, dtype: torch.dtype, attention: str) -> None:
    one = table(name, LOAD, dtype, attention)
    for text in (*IN_TURN, f"{IN_TURN[1]} | lr=0.1 dropout=0.1"):
        assert one.takes(parse(text))
        assert_equal(one.cost(parse(text)), whole(name, text, LOAD, dtype, attention))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_so_are_they_with_activations_computed_again(name: str) -> None:
    """But for what the layers of T5 share, the gradient of their biases of positions."""
    load = replace(LOAD, checkpointing=True)
    for text in IN_TURN[:4]:
        found, expected = table(name, load).cost(parse(text)), whole(name, text, load)
        assert found.peak_bytes == pytest.approx(expected.peak_bytes, rel=0.01)
        assert found.training_flops == pytest.approx(expected.training_flops, rel=1e-6)


def test_layers_of_two_stacks_that_are_alike_are_traced_once() -> None:
    one = table("bart")
    one.cost(parse("lora@linear[bits:010110110]"))
    traces = one.traces
    assert_equal(one.cost(parse("lora@linear[bits:010111010]")), whole("bart", "lora@linear[bits:010111010]"))
    assert one.traces == traces
