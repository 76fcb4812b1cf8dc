"""Ladder side-tuning: no gradient through the backbone, who sees whom, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model
from torch import nn

from evaluators.tuners.lst import LstConfig, LstLayer
from search_space.errors import UnsupportedError


def with_side_network(backbone: Any, perturb: Any, **knobs: Any) -> nn.Module:
    model = backbone.build()
    config = LstConfig(target_modules=backbone.names("layers"), reduction=4, heads=2, **knobs)
    inject_adapter_in_model(config, model)
    perturb(model)
    return model


@pytest.mark.parametrize("side_block", ["transformer", "feed_forward"])
def test_no_gradient_goes_through_the_backbone(backbone: Any, perturb: Any, side_block: str) -> None:
    model = with_side_network(backbone, perturb, side_block=side_block)
    in_graph = []
    for layer in (module for module in model.modules() if isinstance(module, LstLayer)):
        for module in layer.base_layer.modules():
            module.register_forward_hook(lambda _, args, output: in_graph.append(output))
    backbone.logits(model.train())
    decoder = backbone.name == "t5"  # its decoder reads what the encoder's ladder was added to
    assert in_graph
    assert decoder or not any(output.requires_grad for output in in_graph if isinstance(output, torch.Tensor))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_decoder_does_not_see_the_future(backbones: dict[str, Any], perturb: Any, name: str) -> None:
    backbone = backbones[name]
    model = with_side_network(backbone, perturb)
    key = "decoder_input_ids" if name == "t5" else "input_ids"
    changed = backbone.inputs[key].clone()
    changed[:, -1] = 9
    with torch.no_grad():
        before = backbone.logits(model)
        after = model(**{**backbone.inputs, key: changed}, use_cache=False).logits
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_padding_is_not_seen(bert: Any, perturb: Any) -> None:
    model = with_side_network(bert, perturb)
    tokens = bert.inputs["input_ids"]
    padded = torch.cat([tokens, torch.full((2, 3), 5)], dim=1)
    mask = (torch.arange(9) < 6).long().expand(2, 9)
    with torch.no_grad():
        short = model.bert(input_ids=tokens).last_hidden_state
        long = model.bert(input_ids=padded, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(short, long[:, :6], atol=1e-5, rtol=0)


def test_attention_refuses_a_cache_and_feed_forward_does_not(llama: Any, perturb: Any) -> None:
    tokens = llama.inputs["input_ids"]
    model = with_side_network(llama, perturb)
    with pytest.raises(UnsupportedError, match="use_cache=False"):
        model.generate(tokens, max_new_tokens=3, min_new_tokens=3)
    model = with_side_network(llama, perturb, side_block="feed_forward")
    cached = model.generate(tokens, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    whole = model.generate(tokens, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=False)
    assert torch.equal(cached, whole)


@pytest.mark.parametrize(("side_block", "block"), [("transformer", 12 * 16 + 13 * 4), ("feed_forward", 8 * 16 + 7 * 4)])
def test_its_count_follows_from_the_widths(bert: Any, side_block: str, block: int) -> None:
    model = bert.build(device="meta")
    config = LstConfig(target_modules=bert.names("layers"), reduction=4, heads=2, side_block=side_block)
    inject_adapter_in_model(config, model)
    d, w, layers = 16, 4, 2
    expected = (layers + 1) * (d * w + w) + layers + layers * block + 2 * w + w * d + d
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"reduction": 3}, "does not divide the width 16"), ({"reduction": 4, "heads": 3}, "3 heads do not divide")],
)
def test_a_width_that_does_not_fit_is_refused(bert: Any, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        inject_adapter_in_model(LstConfig(target_modules=bert.names("layers"), **knobs), bert.build())
