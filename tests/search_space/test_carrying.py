"""Methods that a model cannot carry are refused before training: with the reason, and with what would work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_space.capability import CHECKS, why_not, why_not_setting
from search_space.carrying import instead_of, require_carried, require_mergeable
from search_space.errors import PlacementError, UnsupportedError
from search_space.notation import parse
from search_space.registry import method
from search_space.space import bind, resolve
from search_space.spec import SpaceSpec
from tests.search_space.test_space import tiny_anatomy


def anatomy(architecture: str = "bert", quantization: str = "none"):
    return replace(tiny_anatomy(), architecture=architecture, quantization=quantization)


def space_on(model, **given: object):
    return bind(SpaceSpec.model_validate(given), model)


def test_a_method_that_the_architecture_cannot_carry_is_refused_with_others_that_it_can() -> None:
    message = r"prefix_tuning cannot be trained on distilbert: .*token_dim.*; \w+, \w+, \w+ can$"
    with pytest.raises(UnsupportedError, match=message):
        space_on(anatomy("distilbert"), methods=["prefix_tuning"])


def test_a_part_of_a_hybrid_is_refused_likewise() -> None:
    with pytest.raises(
        UnsupportedError, match="adaption_prompt cannot be trained on bert: adaption_prompt knows llama"
    ):
        space_on(anatomy(), methods={}, hybrids=["lora + adaption_prompt"])


def test_what_a_preset_brings_is_left_out() -> None:
    assert "adaption_prompt" not in space_on(anatomy(), preset="everything").parts
    assert "adaption_prompt" in space_on(anatomy("llama"), preset="everything").parts


def test_an_architecture_that_was_never_tried_is_let_through() -> None:
    require_carried(method("prefix_tuning"), anatomy("unheard_of"))


def test_a_method_that_cannot_take_quantised_weights_is_refused_with_those_that_it_can() -> None:
    message = "mask cannot be trained on nf4 weights: .* quantised weight, which cannot be added to; mask can on none"
    with pytest.raises(UnsupportedError, match=message):
        space_on(anatomy("llama", "nf4"), methods=["mask"])
    assert "mask" not in space_on(anatomy("llama", "nf4"), preset="everything").parts
    assert "loftq" in space_on(anatomy("llama", "nf4"), preset="everything").parts


def test_a_flag_that_quantised_weights_cannot_take_is_refused_or_never_drawn() -> None:
    with pytest.raises(
        UnsupportedError, match=r"lora\.use_dora: use_dora=true cannot be trained on int8 weights: .*; leave it out"
    ):
        space_on(anatomy("llama", "int8"), methods={"lora": {"use_dora": [False, True]}})
    drawn = {
        knob.name: knob.values for knob in space_on(anatomy("llama", "int8"), methods=["lora"]).parts["lora"].knobs
    }
    assert (drawn["use_dora"], drawn["use_rslora"]) == ((False,), (False, True))
    for kind in ("none", "nf4"):
        assert space_on(anatomy("llama", kind), methods={"lora": {"use_dora": [True]}}).size


def test_a_flag_that_was_tried_on_the_cpu_alone_is_taken_to_fail_elsewhere() -> None:
    assert why_not_setting("lora", "use_dora", True, "int8") != ""
    assert why_not_setting("lora", "use_dora", True, "int8", "cuda") != ""
    assert why_not_setting("lora", "use_dora", True, "nf4", "cuda") == ""
    assert why_not_setting("lora", "use_dora", False, "int8") == ""


def test_a_method_of_quantised_weights_is_refused_where_there_are_none() -> None:
    with pytest.raises(
        UnsupportedError, match=r"these are not quantised; set model\.quantization, or use lora or pissa"
    ):
        space_on(anatomy(), methods=["loftq"])


def test_a_module_that_a_method_cannot_wrap_is_named_with_methods_that_can() -> None:
    message = r"vera cannot wrap .* \(a conv1d module\); it wraps linear; lora, \w+, \w+ can"
    with pytest.raises(UnsupportedError, match=message):
        resolve(method("vera").default_part(), tiny_anatomy(kind="conv1d"))


def test_others_are_of_the_same_family_first() -> None:
    assert instead_of(method("vera"), kind="conv1d").startswith("lora, ")
    assert all(method(name).family == "additive" for name in instead_of(method("prefix_tuning"), "t5").split(", "))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prefix_tuning", "it is not in the weights"),
        ("serial_adapter", "what it computes is not a change of the backbone's weights"),
        ("lily", "This method is not supported for Lily"),
        ("lora(per_task=true)", "what it adds turns with the task"),
        ("mtl_lora", "what it adds turns with the task"),
    ],
)
def test_what_is_no_change_of_the_weights_is_not_merged_and_what_is_can(text: str, reason: str) -> None:
    (part,) = parse(text).parts
    with pytest.raises(UnsupportedError, match=f"cannot be merged into the weights of bert: .*{reason}") as refused:
        require_mergeable(part, "bert")
    named = str(refused.value).removesuffix(" can").rpartition("; ")[2].split(", ")
    assert named
    assert all(not why_not(name, check, "bert") for name in named for check in CHECKS)


def test_what_merges_is_let_through() -> None:
    for text in ("lora", "ia3", "bitfit", "full", "head"):
        require_mergeable(parse(text).parts[0], "bert")


def test_a_placement_that_matches_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(PlacementError, match=r"bert has no mlp\.gate.*; it has 'attention\.query', .*'mlp\.down'"):
        space_on(anatomy(), methods={"lora": {"projections": "mlp.gate"}})


def test_layers_beyond_the_model_are_refused_with_their_number() -> None:
    with pytest.raises(PlacementError, match=r"layers 'top:9' need at least 9 layers, the model has"):
        space_on(anatomy(), methods={"lora": {"layers": "top:9"}})
