"""BitFit: the count, the state, and merging where there was no bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from torch import nn

from evaluators.tuners.bitfit import BitFitConfig
from search_space.errors import UnsupportedError

# peft 0.21.2 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_the_state_holds_one_vector_per_target(llama: Any) -> None:
    model = get_peft_model(llama.build(), BitFitConfig(target_modules=llama.names("feed_forward", "norm")))
    state = get_peft_model_state_dict(model)
    assert sorted(tuple(value.shape) for value in state.values()) == [(16,)] * 4 + [(32,)] * 2
    assert all(key.endswith(".bitfit_bias") for key in state)


def test_merging_creates_a_bias_where_there_was_none(llama: Any) -> None:
    model = get_peft_model(llama.build(), BitFitConfig(target_modules=llama.names("feed_forward")))
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    nn.init.normal_(layer.bitfit_bias["default"])
    delta = layer.bitfit_bias["default"].detach().clone()
    merged = model.merge_and_unload()
    assert torch.equal(merged.model.layers[0].mlp.up_proj.bias, delta)


def test_it_is_not_merged_into_a_norm_without_a_bias(llama: Any) -> None:
    model = get_peft_model(llama.build(), BitFitConfig(target_modules=llama.names("norm")))
    with pytest.raises(UnsupportedError, match="LlamaRMSNorm, which computes without a bias"):
        model.merge_and_unload()


def test_merging_a_bfloat16_base_keeps_its_dtype(bert: Any) -> None:
    model = get_peft_model(bert.build(dtype=torch.bfloat16), BitFitConfig(target_modules=bert.names("feed_forward")))
    merged = model.merge_and_unload()
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
