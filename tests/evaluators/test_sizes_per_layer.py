"""A size for each layer: attached, trained and counted as parts of one size each, for every method that has a size."""

from __future__ import annotations

import pytest

from evaluators.attach import attach
from search_space.capability import why_not
from search_space.notation import parse
from search_space.registry import method, methods
from tests.architectures import tiny_inputs
from tests.evaluators.test_counting import anatomy, counter, model, trained

SIZED = [
    name for name, one in methods().items() if one.route == "inject" and any(k.low and k.per_layer for k in one.knobs)
]
SIZED.remove("lst")  # one side network beside all layers
SIZED = [name for name in SIZED if not why_not(name, "attaches", "bert") and not method(name).several_tasks]
MORE = {"vblora": ",vector_length=4", "qa_lora": ",group_size=4"}
HYBRIDS = (
    "lora(r=2/4)@attention + serial_adapter(r=8/2) + prefix_tuning(num_virtual_tokens=1/3)",
    "serial_adapter(r=2/4)@mlp.down + lora(r=1/2)@mlp.down + bitfit@mlp.down",
)


def count(text: str) -> int:
    return counter("bert").count(parse(text)).trainable_params


@pytest.mark.parametrize("name", SIZED)
def test_sizes_of_layers_add_up_and_all_of_them_train(name: str) -> None:
    rule = method(name)
    knob = next(one for one in rule.knobs if one.low and one.per_layer)
    where = f"@{rule.placement.default}" if not rule.placement.fixed else ""
    first, second = (2, 4) if name == "c3a" else knob.values[:2]
    more = MORE.get(name, "")
    text = f"{name}({knob.name}={first}/{second}{more}){where}"
    alone = [
        f"{name}({knob.name}={size}{more}){where or '@'}[bits:{bits}]" for size, bits in ((first, "10"), (second, "01"))
    ]
    apart = [count(one) for one in alone]
    assert count(text) == sum(apart)
    one = attach(model("bert", False), anatomy("bert"), parse(text))
    assert one.trainable_params == sum(apart)
    one.model(**tiny_inputs("bert")).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in one.parts[0])


@pytest.mark.parametrize("text", [*HYBRIDS, "lora(r=1/2)", "prefix_tuning(num_virtual_tokens=1/3)"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_what_is_counted_is_what_is_trained_and_saved(name: str, text: str) -> None:
    if name == "llama":
        text = text.replace(" + bitfit@mlp.down", "")
    assert counter(name).count(parse(text)) == trained(name, parse(text))
