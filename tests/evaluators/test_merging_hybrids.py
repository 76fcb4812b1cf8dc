"""Hybrids merge into the weights where all of their parts do: to equal logits, the backbone untouched."""

from __future__ import annotations

import pytest
import torch

from evaluators.attach import attach
from evaluators.capabilities import train
from evaluators.exported import merged_candidate
from evaluators.specimens import logits_of, tiny
from search_space.errors import UnsupportedError
from search_space.notation import parse


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    "text",
    [
        *("lora", "lora + ia3", "ia3 + lora@linear", "lora + lora(r=2)@linear", "lora(use_dora=true) + ia3@mlp.down"),
        *("loha@mlp + lokr@attention + lora", "lora + mask", "ia3 + lora + ia3@linear", "oft + lora@mlp"),
    ],
)
def test_parts_that_merge_merge_together(text: str, family: str) -> None:
    model, anatomy = tiny(family)
    before, plain = {name: one.clone() for name, one in model.state_dict().items()}, logits_of(model, family)
    attached = attach(model, anatomy, parse(text))
    train(attached, family)
    wanted = logits_of(attached.model, family)
    merged = merged_candidate(attached)
    torch.testing.assert_close(logits_of(merged, family), wanted, atol=1e-4, rtol=0)
    assert (wanted - plain).abs().max() > 1e-3
    assert set(merged.state_dict()) == set(before)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_biases_merge_with_matrices() -> None:
    test_parts_that_merge_merge_together("lora + bitfit", "bert")


@pytest.mark.parametrize("text", ["lora + serial_adapter", "lora + prefix_tuning"])
def test_a_part_that_cannot_be_merged_is_named(text: str) -> None:
    attached = attach(*tiny("bert"), parse(text))
    with pytest.raises(UnsupportedError, match=f"{text.split()[-1]} cannot be merged"):
        merged_candidate(attached)
