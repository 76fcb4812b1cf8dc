"""LoRA on tables of embeddings: counted, trained, reloaded, merged as elsewhere, never into a weight that is tied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluators.attach import Attached, attach
from evaluators.backbone import Backbone
from evaluators.counting import Counter
from evaluators.exported import as_peft_model, reload_peft
from evaluators.hooks import load_trained
from evaluators.memory import Load, predict_step
from evaluators.memory_table import MemoryTable
from evaluators.merged import merged_model
from evaluators.probing import _merge, _storages, train
from evaluators.specimens import batch_of, logits_of, tiny, without_weights
from evaluators.tuners.shapes import innermost
from search_space.errors import UnsupportedError
from search_space.notation import parse
from search_space.registry import methods
from search_space.space import bind
from search_space.spec import SpaceSpec
from tests.evaluators.peft_folders import save_with_peft

FLAGS = ("", ",use_rslora=true", ",use_dora=true", ",use_rslora=true,use_dora=true")
PLACES = ("embeddings", "attention.query,embeddings")
TEXTS = [f"lora(r=4{flags})@{place}" for flags in FLAGS for place in PLACES]
UNTIED, TIED = ("bert", "llama", "gpt2"), ("t5", "bart")


def trained(architecture: str, text: str) -> Attached:
    model, anatomy = tiny(architecture)
    one = attach(model, anatomy, parse(text))
    train(one, architecture)
    return one


@pytest.mark.parametrize("architecture", UNTIED)
@pytest.mark.parametrize("text", TEXTS)
def test_it_is_counted_reloaded_and_merged(architecture: str, text: str) -> None:
    model, anatomy = tiny(architecture)
    one = trained(architecture, text)
    bare = without_weights(architecture)
    counter = Counter(bare, anatomy)
    counted = counter.count(parse(text))
    assert counted == counter.whole(parse(text).parts)
    assert (counted.trainable_params, counted.head_params) == (one.trainable_params, one.head_params)
    again = attach(model, anatomy, one.candidate, seed=1)
    load_trained(again, one.state(_storages(model)), _storages(model))
    torch.testing.assert_close(
        logits_of(again.model, architecture), logits_of(one.model, architecture), atol=1e-5, rtol=0
    )
    _merge(one, model, anatomy, architecture)


def test_its_size_is_that_of_two_matrices_and_a_magnitude_for_each_dimension() -> None:
    model, anatomy = tiny("bert")
    tables = [model.get_submodule(f"bert.embeddings.{kind}_embeddings").weight.shape for kind in ("word", "token_type")]
    matrices, magnitudes = sum(4 * (rows + width) for rows, width in tables), sum(width for _, width in tables)
    sizes = [attach(model, anatomy, parse(f"lora(r=4{flags})@embeddings")).trainable_params for flags in FLAGS[1:3]]
    assert sizes == [matrices, matrices + magnitudes]


def test_it_changes_the_embeddings_alone() -> None:
    one = trained("llama", "lora(r=2)@embeddings")
    own = {name for name, parameter in one.model.named_parameters() if parameter.requires_grad and "score" not in name}
    assert own == {f"model.embed_tokens.lora_embedding_{letter}.part0" for letter in "AB"}


@pytest.mark.parametrize("architecture", TIED)
def test_a_table_of_two_stacks_is_trained_but_not_merged(architecture: str) -> None:
    """Each stack learns an update of its own, and there is one weight."""
    model, anatomy = tiny(architecture)
    one = trained(architecture, "lora(r=2)@embeddings")
    again = attach(model, anatomy, one.candidate, seed=1)
    load_trained(again, one.state(_storages(model)), _storages(model))
    torch.testing.assert_close(logits_of(again.model, architecture), logits_of(one.model, architecture))
    backbone = Backbone(model, None, torch.device("cpu"), torch.float32)
    held = as_peft_model(backbone, anatomy, one.candidate, one.state(_storages(model)), "tiny")
    with pytest.raises(UnsupportedError, match=r"embed_tokens cannot be merged: it shares its weight with .*embed_tok"):
        merged_model(held)


@pytest.mark.parametrize("architecture", TIED)
def test_what_is_not_tied_is_merged_there(architecture: str) -> None:
    model, anatomy = tiny(architecture)
    _merge(trained(architecture, "lora(r=2)@linear"), model, anatomy, architecture)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_peft_reloads_its_folder(architecture: str, tmp_path: Path) -> None:
    one = trained(architecture, "lora(r=2)@embeddings,attention.query")
    backbone = save_with_peft(one, architecture, tmp_path)
    found = logits_of(reload_peft(backbone, tmp_path), architecture)
    torch.testing.assert_close(found, logits_of(one.model, architecture), atol=1e-4, rtol=0)


@pytest.mark.parametrize("text", ["lora(r=4)@embeddings", "lora(r=4,use_dora=true)@linear,embeddings"])
def test_its_memory_is_a_sum_over_layers(text: str) -> None:
    bare, anatomy, load = without_weights("bert"), tiny("bert")[1], Load(4, 24, 6)
    one = MemoryTable(bare, anatomy, torch.float32, load).cost(parse(text))
    whole = predict_step(attach(bare, anatomy, parse(text)), torch.float32, load)
    assert one.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.005)
    assert one.training_flops == pytest.approx(whole.training_flops, rel=1e-6)


def test_it_trains_over_16_bits() -> None:
    model, anatomy = tiny("bert")
    half = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    half = half.to(torch.bfloat16).requires_grad_(False)
    one = attach(half, anatomy, parse("lora(r=4)@embeddings,attention.query"))
    inputs, _ = batch_of("bert", 0)
    logits = one.model(**inputs).logits
    logits.float().sum().backward()
    table = one.model.get_submodule("bert.embeddings.word_embeddings")
    assert table(inputs["input_ids"]).dtype == innermost(table).weight.dtype == torch.bfloat16
    assert all(parameter.grad is not None for parameter in one.trainable)


def test_no_space_has_it_unless_it_is_asked_for() -> None:
    """What presets draw is as it was: `linear` has no embeddings, and lora's own sets of projections have none."""
    anatomy = tiny("bert")[1]
    for preset in ("lora", "default", "everything"):
        spaces = bind(SpaceSpec(preset=preset), anatomy).parts.values()
        assert not [one for one in spaces for text in one.projections if "embeddings" in text]
    asked = bind(SpaceSpec.model_validate({"methods": {"lora": {"projections": ["embeddings"]}}}), anatomy)
    assert {one.projections for one in asked.parts.values() if one.rule.name == "lora"} == {("embeddings",)}


@pytest.mark.parametrize(
    ("architecture", "module"), [("bert", "bert.embeddings.position_embeddings"), ("gpt2", "transformer.wpe")]
)
def test_a_table_that_is_read_without_being_called_is_refused(architecture: str, module: str) -> None:
    model, anatomy = tiny(architecture)
    with pytest.raises(UnsupportedError, match=rf"lora on {module} could have no effect: .* place it on 'embeddings'"):
        attach(model, anatomy, parse(f"lora(r=2)@module:{module}"))


@pytest.mark.parametrize("name", [name for name, one in methods().items() if one.placement.default.projections])
def test_who_cannot_wrap_embeddings_says_who_can(name: str) -> None:
    spec = SpaceSpec.model_validate({"methods": {name: {"projections": ["embeddings"]}}, "hybrids": []})
    anatomy = tiny("bert", 2)[1]
    if "embedding" in methods()[name].placement.kinds:
        assert bind(spec, anatomy).size
        return
    with pytest.raises(UnsupportedError) as refused:
        bind(spec, anatomy)
    said = str(refused.value)
    assert "; can" not in said
    assert "(a embedding" not in said
    assert "quantis" in said or said.endswith(
        f"(an embedding module); it wraps {', '.join(methods()[name].placement.kinds)}; lora can"
    )
