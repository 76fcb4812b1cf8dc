"""Serial adapters: the equation, the count, the refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model
from torch import nn

from evaluators.tuners.serial_adapter import SerialAdapterConfig
from search_space.errors import CandidateError, UnsupportedError

# peft says so whenever a second adapter is injected.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")


def test_it_computes_the_papers_equation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    x, base = torch.randn(3, 6), model[0]
    inject_adapter_in_model(SerialAdapterConfig(target_modules=["0"], r=2, activation="tanh", scaling=0.5), model)
    down, up = model[0].serial_adapter_down["default"], model[0].serial_adapter_up["default"]
    nn.init.normal_(up.weight)
    h = base(x)
    expected = h + 0.5 * (torch.tanh(h @ down.weight.T + down.bias) @ up.weight.T + up.bias)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(("layer_norm", "count"), [(False, 2 * 3 * 16 + 3 + 16), (True, 2 * 3 * 16 + 3 + 16 + 2 * 16)])
def test_its_count_follows_from_its_width(bert: Any, layer_norm: bool, count: int) -> None:
    model = bert.build(device="meta")
    targets = [f"bert.encoder.layer.{i}.output.dense" for i in range(2)]
    inject_adapter_in_model(SerialAdapterConfig(target_modules=targets, r=3, layer_norm=layer_norm), model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * count


def test_two_adapters_on_one_module_are_applied_in_turn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    for name in ("one", "two"):
        inject_adapter_in_model(SerialAdapterConfig(target_modules=["0"], r=2), model, adapter_name=name)
        nn.init.normal_(model[0].serial_adapter_up[name].weight)
    x, layer = torch.randn(2, 4), model[0]
    outputs = []
    for active in (["one"], ["two"], ["one", "two"], ["two", "one"]):
        layer.set_adapter(active)
        outputs.append(model(x))
    assert all(not torch.equal(outputs[i], outputs[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"r": 0}, "r must be above 0"),
        ({"r": True}, "r must be above 0"),
        ({"scaling": float("nan")}, "scaling must be above 0"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
    ],
)
def test_a_bad_knob_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(CandidateError, match=message):
        SerialAdapterConfig(target_modules=["0"], **knobs)


def test_a_module_without_a_width_is_refused(bert: Any) -> None:
    config = SerialAdapterConfig(target_modules=["bert.encoder.layer.0.attention"])
    with pytest.raises(UnsupportedError, match="BertAttention, whose width is unknown"):
        inject_adapter_in_model(config, bert.build())
