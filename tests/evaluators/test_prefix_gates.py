"""Gated prefixes: each layer's input opens its prefix, padding does not count, and a state reloads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evaluators.attach import Attached, attach
from evaluators.backbone import Backbone
from evaluators.exported import is_peft
from evaluators.probing import probe_hybrid, train
from evaluators.specimens import batch_of, logits_of, tiny
from search_space.errors import UnsupportedError
from search_space.notation import parse

FAMILIES = ("bert", "llama", "gpt2")


def attached(text: str, family: str = "bert", seed: int = 0) -> Attached:
    model, anatomy = tiny(family)
    return attach(model, anatomy, parse(text), seed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["all", "top:1"])
def test_it_trains_all_of_its_gates_and_reloads(family: str, layers: str) -> None:
    one = attached(f"gated_prefix(num_virtual_tokens=16)@[{layers}]", family)
    plain = attached(f"prefix_tuning@[{layers}]", family)
    assert one.trainable_params == plain.trainable_params + (2 if layers == "all" else 1) * (64 + 1)
    train(one, family)
    shared = Backbone(tiny(family)[0], None, torch.device("cpu"), torch.float32).storages
    again = attached(f"gated_prefix(num_virtual_tokens=16)@[{layers}]", family, seed=3)
    again.load(one.state(shared), shared)
    assert torch.equal(logits_of(one.model, family), logits_of(again.model, family))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_open_gate_is_the_plain_prefix_and_a_closed_one_has_no_keys_of_its_own(family: str) -> None:
    gated, plain = attached("gated_prefix(num_virtual_tokens=16)", family), attached("prefix_tuning", family)
    state = {name: tensor for name, tensor in plain.model.state_dict().items() if "prompt_encoder" in name}
    gated.model.load_state_dict(state, strict=False)
    head = {name: tensor for name, tensor in plain.model.state_dict().items() if "modules_to_save" in name}
    gated.model.load_state_dict(head, strict=False)
    gates = [module for name, module in gated.model.named_modules() if ".gates." in name]
    assert len(gates) == 2
    for gate, level in ((gates, 60.0), (gates, -60.0)):
        for one in gate:
            torch.nn.init.zeros_(one.weight)
            torch.nn.init.constant_(one.bias, level)
        difference = (logits_of(gated.model, family) - logits_of(plain.model, family)).abs().max()
        assert (difference < 1e-6) == (level > 0)


def test_padding_does_not_open_a_gate() -> None:
    one = attached("gated_prefix(num_virtual_tokens=16)")
    ids = batch_of("bert", 0)[0]["input_ids"]
    padded = torch.cat([ids, torch.zeros(4, 5, dtype=torch.long)], 1)

    def say(tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            return one.model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits

    torch.testing.assert_close(say(ids), say(padded), atol=1e-5, rtol=0)


def test_unipelt_has_all_three_gates() -> None:
    assert probe_hybrid(parse("unipelt + gated_prefix"), "bert") == ""


def test_peft_does_not_know_it() -> None:
    assert not is_peft(parse("gated_prefix(num_virtual_tokens=16)"))
    assert is_peft(parse("prefix_tuning"))


def test_a_model_of_two_stacks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="a gated prefix needs a model of one stack, and t5 has two"):
        attached("gated_prefix(num_virtual_tokens=16)", "t5")
