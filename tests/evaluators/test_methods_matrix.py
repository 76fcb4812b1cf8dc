"""Every method on tiny models of three families: attached, trained, counted, reloaded, merged where it says so."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from evaluators.attach import attach
from evaluators.backbone import Backbone
from evaluators.capabilities import FAMILIES, logits_of, probe_method, tiny, train, without_weights
from evaluators.exported import as_peft_model, reload_peft
from evaluators.hooks import Schooling, hooks_of
from evaluators.memory import Load, predict_step
from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.errors import UnsupportedError
from search_space.notation import parse
from search_space.registry import method, methods
from search_space.space import at_defaults

NAMES = [name for name, one in methods().items() if one.route not in ("head", "full")]
PLAIN_LINEAR = {name for name in NAMES if method(name).placement.kinds == ("linear",)}
NEEDS_A_BIAS = {"beft", "bitfit"}
CHOICES = [(name, knob.name, value) for name in NAMES for knob in method(name).knobs for value in knob.values]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_does_what_it_promises(name: str, family: str) -> None:
    failed = probe_method(name, family)
    if family == "gpt2" and name in PLAIN_LINEAR:
        assert "cannot wrap transformer.h.0" in failed["attaches"]
        return
    never = set() if method(name).merges else {"merges"}
    assert set(failed) == never or (name in NEEDS_A_BIAS and family == "llama")


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_predicted_from_shapes(name: str) -> None:
    bare = without_weights("bert")
    attached = attach(bare, tiny("bert")[1], at_defaults(name))
    assert predict_step(attached, torch.float32, Load(2, 8, 2)).peak_bytes > 4 * attached.trainable_params


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_peft_reloads_its_own_folder_to_equal_outputs(name: str, tmp_path: Path) -> None:
    model, anatomy = tiny("bert")
    backbone = Backbone(model, None, torch.device("cpu"), torch.float32)
    attached = attach(model, anatomy, at_defaults(name))
    train(attached, anatomy)
    held = as_peft_model(backbone, anatomy, attached.candidate, attached.state(backbone.storages), "tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no model of this name to compare vocabularies with
        held.save_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(reload_peft(backbone, tmp_path)), logits_of(attached.model), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "knob", "value"), CHOICES)
def test_every_value_of_every_knob_is_counted_right_or_refused(name: str, knob: str, value: KnobValue) -> None:
    model, anatomy = tiny("bert")
    part = method(name).default_part()
    part = Part(name, tuple((dict(part.knobs) | {knob: value}).items()), part.placement)
    candidate = Candidate((part,), Recipe((1e-3,)))
    try:
        predicted = attach(without_weights("bert"), anatomy, candidate).trainable_params
    except UnsupportedError:
        with pytest.raises(UnsupportedError):
            attach(model, anatomy, candidate)
        return
    attached = attach(model, anatomy, candidate)
    assert attached.trainable_params == predicted
    train(attached, anatomy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boft(boft_block_size=5)", r"boft_block_size = 5 does not divide 64; '2', '4', '8', '16', '32', '64' would"),
        ("c3a(block_size=48)@mlp.up", "block_size = 48 does not divide 64; .* would divide all of 64, 128"),
        ("gralora(r=5)", "gralora_k = 2 does not divide 5; only 1 would divide all of 5, 64"),
        ("fourierft(n_frequency=5000)", "n_frequency = 5000 is more than the 4096 that the smallest module has"),
        ("oft(oft_block_size=8/16)", r"oft takes one oft_block_size for all layers, not \(8, 16\)"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_what_would(text: str, message: str) -> None:
    model, anatomy = tiny("bert")
    with pytest.raises(UnsupportedError, match=message):
        attach(model, anatomy, parse(text))


class TestHooks:
    def test_a_fish_mask_goes_where_the_information_is_and_keeps_its_size(self) -> None:
        model, anatomy = tiny("bert")
        attached = attach(model, anatomy, parse("mask(density=0.02)@linear"))
        before = attached.trainable_params
        train(attached, anatomy)
        counts = [p.numel() for n, p in attached.model.named_parameters() if "sparse_mask_values" in n]
        assert sum(counts) == before
        assert len(set(counts)) > 2  # uniform in each kind of module before

    def test_adalora_ends_with_the_rank_that_it_was_told(self) -> None:
        model, anatomy = tiny("bert")
        attached = attach(model, anatomy, parse("adalora(target_r=4)"))
        train(attached, anatomy)
        kept = [int(p.count_nonzero()) for n, p in attached.model.named_parameters() if "lora_E" in n]
        assert sum(kept) == 4 * len(kept)

    @pytest.mark.parametrize(("name", "pays"), [("adalora", True), ("diff_pruning", True), ("lora", False)])
    def test_only_some_methods_add_to_the_loss(self, name: str, pays: bool) -> None:
        model, anatomy = tiny("bert")
        attached = attach(model, anatomy, at_defaults(name))
        hooks = hooks_of(attached)
        hooks.begin(attached, Schooling(4, [], lambda model, batch: torch.zeros(())))
        assert bool(hooks.penalised(torch.zeros(())) > 0) == pays
