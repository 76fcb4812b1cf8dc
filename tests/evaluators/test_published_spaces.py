"""The published spaces against what their papers' repositories state: the same choices, counted apart.

Figures are those of the files named here, read at the commits named; nothing here is taken from our presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import log2, prod

import pytest
import transformers

from evaluators.anatomy import anatomy_of
from evaluators.backbone import build_on_meta
from search_space.placement import Anatomy
from search_space.space import Space, bind
from search_space.spec import SpaceSpec, presets
from tests.search_space.test_space import space_of

NOAH_DEPTHS, NOAH_SIZES, NOAH_MODULES = (3, 6, 9, 12), (1, 5, 10), 3
"""ZhangYuanhan-AI/NOAH, experiments/NOAH/supernet/supernet-B_prompt_VPT.yaml at 0253253a."""

S3DELTA: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("q", "k", "v", "o", "wi", "wo"), ("Lora", "BitFitParallel")),
    "layer_norm": ("LNFit", "BitFitParallel"),
    "SelfAttention": ("LowRankAdapter",),
    "DenseReluDense": ("LowRankAdapter",),
}
"""thunlp/S3Delta, NAS_global/structure_config/mix_low_rank.json at 3e046d45: what stands at each module of a layer."""

BIPEFT: Mapping[str, int] = {"lora": 48 * 6, "lnfit": 122, "bitfit": 48 * 6 + 122, "adapter": 48 * 2}
BIPEFT_RANKS = (1, 4, 8)
"""Aofei-Chang/BIPEFT, space/t5_search_space.py at cbe2ae62: `PEFT_config`, of T5-large, and `candidate_dims`."""

LONAS_WIDTHS: tuple[tuple[int, ...], ...] = ((8, 4, 2),) * 12
"""IntelLabs/Hardware-Aware-Automated-Machine-Learning, LoNAS/nncf_config/glue/nncf_lonas_bert_base_mnli.json at
14329207: the `overwrite_groups_widths` of the groups of `lora_A`, each of one layer's queries and values."""

S4_GROUPS, S4_METHODS = 4, 4
"""arXiv:2301.01821: four groups of layers, each with some of adapter, prefix, BitFit and LoRA."""


@cache
def t5_large() -> Anatomy:
    """What S3Delta and BIPEFT search on, as shapes."""
    sizes = {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "d_kv": 64}
    return anatomy_of(build_on_meta(transformers.T5Config(**sizes, num_labels=2)))


def on_t5_large(preset: str) -> Space:
    return bind(SpaceSpec(preset=preset), t5_large())


def places(preset: str, method: str) -> int:
    """Return at how many places of T5-large a preset has a method: once for each of its parts and layers."""
    parts = presets()[preset]["hybrids"][0]["parts"]
    return sum(part["method"] == method for part in parts) * t5_large().n_layers


def test_noah_has_a_size_for_each_layer_down_to_each_depth() -> None:
    forms = sum(len(NOAH_SIZES) ** depth for depth in NOAH_DEPTHS)
    assert forms == 551_880
    assert space_of(12, preset="noah").size == forms**NOAH_MODULES


def test_s3delta_and_bipeft_are_stated_alike() -> None:
    """The positions of one file, on T5-large, are the numbers of the other: 916 in all."""
    layers, norms = 48, 24 * 2 + 24 * 3 + 2
    stated = {kind: sum(kind in one for name, one in S3DELTA.items() if name != "layer_norm") for kind in _kinds()}
    assert stated["Lora"] * layers == BIPEFT["lora"]
    assert stated["BitFitParallel"] * layers + norms == BIPEFT["bitfit"]
    assert stated["LowRankAdapter"] * layers == BIPEFT["adapter"]
    assert norms == BIPEFT["lnfit"]
    assert sum(BIPEFT.values()) == 916


def _kinds() -> set[str]:
    return {kind for one in S3DELTA.values() for kind in one}


def test_our_t5_large_has_the_norms_that_bipeft_counts() -> None:
    assert t5_large().n_layers == 48
    assert sum("norm" in site.projections for site in t5_large().sites) == BIPEFT["lnfit"]


@pytest.mark.parametrize("preset", ["s3delta", "bipeft"])
def test_every_position_but_the_norms_is_one_of_the_paper(preset: str) -> None:
    assert places(preset, "lora") == BIPEFT["lora"]
    assert places(preset, "serial_adapter") == BIPEFT["adapter"]
    assert places(preset, "bitfit") == BIPEFT["bitfit"] - BIPEFT["lnfit"]
    assert places(preset, "ln_tuning") == t5_large().n_layers


def test_s3delta_has_a_bit_for_each_position_and_one_for_the_norms_of_a_layer() -> None:
    bits = sum(BIPEFT.values()) - 2 * BIPEFT["lnfit"] + t5_large().n_layers
    assert on_t5_large("s3delta").size == 2**bits - 1


def test_bipeft_has_a_rank_beside_each_bit_of_a_matrix() -> None:
    ranked, plain = BIPEFT["lora"] + BIPEFT["adapter"], BIPEFT["bitfit"] - BIPEFT["lnfit"] + t5_large().n_layers
    size = (1 + len(BIPEFT_RANKS)) ** ranked * 2**plain - 1
    assert on_t5_large("bipeft").size == size
    papers = ranked * log2(1 + len(BIPEFT_RANKS)) + BIPEFT["bitfit"] + BIPEFT["lnfit"]
    assert (round(log2(size + 1)), papers) == (1104, 1300)


def test_lonas_has_a_rank_for_each_group_of_its_configuration() -> None:
    assert space_of(len(LONAS_WIDTHS), preset="lonas").size == prod(map(len, LONAS_WIDTHS))


def test_s4_has_every_choice_of_methods_for_every_group() -> None:
    """With one size for each method what is left are the paper's choices, but for the one of nothing anywhere."""
    whole = presets()["s4"]["hybrids"][0]
    size = {"r": 8, "num_virtual_tokens": 8}
    parts = [one | {knob: value for knob, value in size.items() if knob in one} for one in whole["parts"]]
    space = space_of(12, methods={}, hybrids=[{**whole, "parts": parts}])
    assert space.size == (2**S4_METHODS) ** S4_GROUPS - 1 == 65_535
