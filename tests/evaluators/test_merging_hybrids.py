"""Candidates merge into the weights where all of their parts do: to equal logits, the backbone untouched."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
import torch

from evaluators.attach import attach
from evaluators.merged import merged_candidate
from evaluators.probing import pair_of, train
from evaluators.specimens import logits_of, tiny
from search_space.candidate import Candidate
from search_space.capability import PAIR_FAMILIES, TO_TRAIN, why_not, why_not_together
from search_space.errors import UnsupportedError
from search_space.notation import parse
from search_space.registry import method, methods
from search_space.space import at_defaults

MERGE = {
    family: [
        name
        for name, one in methods().items()
        if one.route == "inject" and not any(why_not(name, check, family) for check in (*TO_TRAIN, "merges"))
    ]
    for family in PAIR_FAMILIES
}
OFFERED = [
    (first, second, layers, family)
    for family in PAIR_FAMILIES
    for first, second, layers in product(MERGE[family], MERGE[family], ("shared", "disjoint"))
    if not why_not_together(first, second, layers, family)
]
SAMPLE = Random("pairs that merge").sample(OFFERED, 18)


def check_merging(candidate: Candidate, family: str) -> None:
    model, anatomy = tiny(family)
    before, plain = {name: one.clone() for name, one in model.state_dict().items()}, logits_of(model, family)
    attached = attach(model, anatomy, candidate)
    train(attached, family)
    wanted = logits_of(attached.model, family)
    merged = merged_candidate(attached)
    torch.testing.assert_close(logits_of(merged, family), wanted, atol=1e-4, rtol=0)
    assert (wanted - plain).abs().max() > 1e-3
    assert set(merged.state_dict()) == set(before)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    "text",
    [
        *("lora", "lora + ia3", "ia3 + lora@linear", "lora + lora(r=2)@linear", "lora(use_dora=true) + ia3@mlp.down"),
        *("loha@mlp + lokr@attention + lora", "lora + mask", "ia3 + lora + ia3@linear", "oft + lora@mlp"),
        *("lora(r=2/4) + ia3", "full@[top:1]", "full@[top:1] + lora@linear[first:1]"),
    ],
)
def test_parts_that_merge_merge_together(text: str, family: str) -> None:
    check_merging(parse(text), family)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    "text", ["pissa + glora", "olora + glora", "fourierft + hira", "c3a + c3a", "waveft + peanut", "oft + hira"]
)
def test_changes_that_are_made_of_the_weights_are_those_of_the_weights_that_were_trained_on(
    text: str, family: str
) -> None:
    """What is merged before is in the weights then: merged one after another these are wrong by up to 2e-3."""
    one, other = map(method, text.split(" + "))
    check_merging(pair_of(one, other, "shared"), family)


def test_a_fused_matrix_of_columns_merges() -> None:
    check_merging(parse("lora@attention + ia3@attention + hira@attention"), "gpt2")


def test_biases_merge_with_matrices() -> None:
    check_merging(parse("lora + bitfit"), "bert")


@pytest.mark.parametrize("name", MERGE["bert"])
def test_every_method_that_merges_gives_a_plain_model(name: str) -> None:
    check_merging(at_defaults(name), "bert")


@pytest.mark.parametrize(("first", "second", "layers", "family"), SAMPLE)
def test_a_pair_that_is_offered_merges(first: str, second: str, layers: str, family: str) -> None:
    check_merging(pair_of(method(first), method(second), layers), family)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "layers", "family"), OFFERED)
def test_every_pair_that_is_offered_merges(first: str, second: str, layers: str, family: str) -> None:
    check_merging(pair_of(method(first), method(second), layers), family)


@pytest.mark.parametrize("text", ["lora + serial_adapter", "lora + prefix_tuning"])
def test_a_part_that_cannot_be_merged_is_named(text: str) -> None:
    attached = attach(*tiny("bert"), parse(text))
    with pytest.raises(UnsupportedError, match=f"{text.split()[-1]} cannot be merged"):
        merged_candidate(attached)
