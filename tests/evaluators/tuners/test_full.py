"""Full fine-tuning: counts with ties, exact merging, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn

from evaluators.tuners.full import FullConfig
from evaluators.tuners.parallel_adapter import ParallelAdapterConfig
from search_space.errors import PlacementError, UnsupportedError

pytestmark = [
    # peft 0.21.2 asks transformers 5 for an attribute under its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # peft says so whenever a second adapter is injected.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_everything_counts_what_the_backbone_counts(backbone: Any) -> None:
    everything = sum(parameter.numel() for parameter in backbone.build(device="meta").parameters())
    outside = sum(p.numel() for n, p in backbone.build().named_parameters() if not n.startswith(backbone.outermost))
    model = backbone.build(device="meta")
    inject_adapter_in_model(FullConfig(target_modules=list(backbone.outermost)), model)
    assert trained(model) == everything - outside


def test_the_last_layers_are_a_placement(bert: Any) -> None:
    model = bert.build()
    layer = sum(parameter.numel() for parameter in model.bert.encoder.layer[1].parameters())
    inject_adapter_in_model(FullConfig(target_modules=["bert.encoder.layer.1"]), model)
    assert trained(model) == layer


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_tied_embeddings_stay_tied(gpt2: Any, perturb: Any, tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    config = FullConfig(target_modules=["transformer.wte", "lm_head"])
    adapted = get_peft_model(gpt2.build(), config).eval()
    assert trained(adapted) == 50 * 16
    perturb(adapted)
    assert len(get_peft_model_state_dict(adapted)) == 1
    adapted.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(
        gpt2.build(), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage
    ).eval()
    assert trained(reloaded) == 50 * 16
    with torch.no_grad():
        expected = gpt2.logits(adapted)
        assert torch.equal(gpt2.logits(reloaded), expected)
        merged = reloaded.merge_and_unload()
        assert torch.equal(gpt2.logits(merged), expected)
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert merged.config.tie_word_embeddings


def test_merging_is_exact_to_the_last_bit(backbone: Any, perturb: Any) -> None:
    adapted = get_peft_model(backbone.build(), FullConfig(target_modules=backbone.names("layers"))).eval()
    perturb(adapted)
    with torch.no_grad():
        expected = backbone.logits(adapted)
        assert torch.equal(backbone.logits(adapted.merge_and_unload()), expected)


def test_it_trains_what_a_module_holds_beside_its_submodules() -> None:
    class Embeddings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(4))
            self.project = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.project(x + self.token)

    model = nn.ModuleDict({"embeddings": Embeddings()})
    x, names = torch.randn(2, 4), list(model.state_dict())
    before = model["embeddings"](x)
    adapted = get_peft_model(model, FullConfig(target_modules=["embeddings"]))
    assert trained(adapted) == 4 + 16 + 4
    assert torch.equal(model["embeddings"](x), before)
    merged = adapted.merge_and_unload()
    assert list(merged.state_dict()) == names
    assert torch.equal(merged["embeddings"](x), before)


def test_a_module_without_parameters_is_refused(bert: Any) -> None:
    with pytest.raises(UnsupportedError, match="no parameters to train"):
        inject_adapter_in_model(FullConfig(target_modules=["dropout"]), bert.build())


def test_nothing_inside_a_wrapped_block_is_left_out_in_silence(llama: Any) -> None:
    model = llama.build()
    inject_adapter_in_model(ParallelAdapterConfig(target_modules=["model.layers.0.mlp"]), model, adapter_name="block")
    with pytest.raises(PlacementError, match="attach the inner part first"):
        inject_adapter_in_model(FullConfig(target_modules=["model.layers.0"]), model, adapter_name="full")
