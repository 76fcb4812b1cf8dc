"""Parallel adapters: the equation on linear modules, on blocks and between two modules; the count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import Tensor, nn

from evaluators.tuners.parallel_adapter import ParallelAdapterConfig
from search_space.errors import PlacementError, UnsupportedError

pytestmark = [
    # peft says so whenever a second adapter is injected.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]


def bottleneck(layer: Any, x: Tensor, scaling: float) -> Tensor:
    down, up = layer.parallel_adapter_down["default"], layer.parallel_adapter_up["default"]
    nn.init.normal_(up.weight)
    return scaling * (torch.relu(x @ down.weight.T + down.bias) @ up.weight.T + up.bias)


def test_it_computes_the_papers_equation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    x, base = torch.randn(3, 6), model[0]
    inject_adapter_in_model(ParallelAdapterConfig(target_modules=["0"], r=2, scaling=4.0), model)
    added = bottleneck(model[0], x, 4.0)
    torch.testing.assert_close(model(x), base(x) + added)


def test_a_block_keeps_the_rest_of_its_output() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, *, hidden_states: Tensor) -> tuple[Tensor, str]:
            return self.second(self.first(hidden_states)), "weights"

    torch.manual_seed(0)
    model = nn.ModuleDict({"block": Block()})
    x, base = torch.randn(2, 4), model["block"]
    inject_adapter_in_model(ParallelAdapterConfig(target_modules=["block"], r=2), model)
    added = bottleneck(model["block"], x, 1.0)
    output, rest = model["block"](hidden_states=x)
    torch.testing.assert_close(output, base(hidden_states=x)[0] + added)
    assert rest == "weights"


def test_it_adapts_a_feed_forward_block_that_is_no_module(bert: Any) -> None:
    model = bert.build()
    names = bert.names("feed_forward")
    target, source = "bert.encoder.layer.0.output.dense", "bert.encoder.layer.0.intermediate.dense"
    assert {target, source} <= set(names)
    config = ParallelAdapterConfig(target_modules=[target], input_modules={target: source}, r=2)
    inject_adapter_in_model(config, model)
    layer, seen = model.get_submodule(target), {}
    model.get_submodule(source).register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    layer.base_layer.register_forward_hook(lambda _, args, output: seen.update(h=output))
    layer.register_forward_hook(lambda _, args, output: seen.update(y=output))
    nn.init.normal_(layer.parallel_adapter_up["default"].weight)
    bert.logits(model)
    torch.manual_seed(1)
    added = bottleneck(layer, seen["x"], 1.0)
    torch.manual_seed(1)
    nn.init.normal_(layer.parallel_adapter_up["default"].weight)
    bert.logits(model)
    torch.testing.assert_close(seen["y"], seen["h"] + added)
    assert all(not site.shared.board for site in layer.parallel_adapter_site.values())


def test_taps_leave_with_the_adapter(bert: Any) -> None:
    target, source = bert.names("feed_forward")[2], bert.names("feed_forward")[0]
    adapted = get_peft_model(
        bert.build(), ParallelAdapterConfig(target_modules=[target], input_modules={target: source})
    )
    assert list(adapted.unload().state_dict()) == list(bert.build().state_dict())


@pytest.mark.parametrize(
    ("target", "widths"),
    [("model.layers.0.mlp", 16 + 16), ("model.layers.0.mlp.up_proj", 16 + 32), ("model.layers.1.self_attn", 16 + 16)],
)
def test_its_count_follows_from_the_widths(llama: Any, target: str, widths: int) -> None:
    model = llama.build(device="meta")
    inject_adapter_in_model(ParallelAdapterConfig(target_modules=[target], r=3), model)
    out = 32 if target.endswith("up_proj") else 16
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * widths + 3 + out


def test_an_input_that_no_target_reads_is_refused() -> None:
    with pytest.raises(PlacementError, match="not among the target modules"):
        ParallelAdapterConfig(target_modules=["a"], input_modules={"b": "c"})


def test_a_block_without_a_linear_module_is_refused(bert: Any) -> None:
    config = ParallelAdapterConfig(target_modules=["bert.embeddings"])
    with pytest.raises(UnsupportedError, match="without a linear module"):
        inject_adapter_in_model(config, bert.build())


def test_the_inner_part_is_attached_first(llama: Any) -> None:
    model = llama.build()
    inject_adapter_in_model(ParallelAdapterConfig(target_modules=["model.layers.0.mlp"]), model, adapter_name="outer")
    config = ParallelAdapterConfig(target_modules=["model.layers.0.mlp.up_proj"])
    with pytest.raises(PlacementError, match="attach the inner part first"):
        inject_adapter_in_model(config, model, adapter_name="inner")
