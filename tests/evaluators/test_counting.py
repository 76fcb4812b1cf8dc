"""Counts before training: to the last number those of the model that is trained, and mostly without building it."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
import safetensors.torch
import torch
from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach, beside_head
from evaluators.counting import Counter, Counts, Held
from evaluators.deployed import Kept, deployed_params
from evaluators.hooks import hooks_of
from evaluators.saved import Saved, file_bytes
from evaluators.specimens import tiny, without_weights
from search_space.candidate import Candidate, Part
from search_space.errors import PlacementError, UnsupportedError
from search_space.notation import parse, write_parts
from search_space.placement import Anatomy
from search_space.registry import method, methods
from search_space.space import Space, bind
from search_space.spec import SpaceSpec
from tests.architectures import tiny_model
from tests.search_space.choosers import Recorded

TEXT = (
    "bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet", "llama", "mistral", "qwen2",
    "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "opt", "falcon", "t5", "bart",
)  # fmt: skip
SHAPELESS = [
    (name, knob.name)
    for name, one in methods().items()
    for knob in one.knobs
    if not knob.shapes and not one.several_tasks
]


@cache
def model(name: str, meta: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.device("meta" if meta else "cpu"):
        return tiny_model(name).requires_grad_(False).to(dtype)


@cache
def anatomy(name: str) -> Anatomy:
    return anatomy_of(model(name, True))


def counter(name: str) -> Counter:
    return Counter(model(name, True), anatomy(name))


def trained(name: str, candidate: Candidate, dtype: torch.dtype = torch.float32) -> Counts:
    """Count the candidate as it is trained, with weights, and as it is saved."""
    backbone = model(name, False, dtype)
    attached = attach(backbone, anatomy(name), candidate)
    state = attached.state(frozenset(one.untyped_storage().data_ptr() for one in backbone.state_dict().values()))
    beside = beside_head(state, anatomy(name).head)
    deployed = deployed_params(candidate.parts, (Kept(key, tuple(one.shape)) for key, one in beside.items()))
    return Counts(attached.trainable_params, attached.head_params, deployed, len(safetensors.torch.save(state)))


def drawn(name: str, count: int, preset: str = "everything") -> list[Candidate]:
    space: Space = bind(SpaceSpec(preset=preset), anatomy(name))
    chooser = Recorded(Random(5))
    return [space.draw(chooser) for _ in range(count)]


def differences(name: str, count: int) -> list[str]:
    """Return what differs between what is counted before training and after, over random candidates."""
    one, found = counter(name), []
    for candidate in drawn(name, count):
        try:
            counted = one.count(candidate)
        except (UnsupportedError, PlacementError):
            with pytest.raises((UnsupportedError, PlacementError)):
                trained(name, candidate)
            continue
        true = trained(name, candidate)
        same = (counted.trainable_params, counted.head_params, counted.deployed_params) == (
            true.trainable_params, true.head_params, true.deployed_params,
        )  # fmt: skip
        slack = 0.01 if "adamss" in candidate.method else 0  # the weights' values say how its clusters divide the rows
        if not same or abs(counted.checkpoint_bytes / true.checkpoint_bytes - 1) > slack:
            found.append(f"{write_parts(candidate)}: {counted} instead of {true}")
    return found


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5"])
def test_what_is_counted_is_what_is_trained_and_saved(name: str) -> None:
    assert differences(name, 25) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_what_is_counted_is_what_is_trained_and_saved_everywhere(name: str) -> None:
    assert differences(name, 400) == []


@pytest.mark.parametrize("text", ["head", "full", "full@[top:1]", "lora@linear", "prefix_tuning", "bitfit + lora"])
def test_the_size_of_the_file_is_right_in_bfloat16_too(text: str) -> None:
    one = Counter(model("bert", True, torch.bfloat16), anatomy("bert"))
    expected = trained("bert", parse(text), torch.bfloat16).checkpoint_bytes
    assert one.count(parse(text)).checkpoint_bytes == pytest.approx(expected, rel=0.01 if "+" in text else 0)


@pytest.mark.parametrize(("name", "knob"), SHAPELESS)
def test_a_knob_that_is_said_to_change_no_shape_changes_none(name: str, knob: str) -> None:
    rule = method(name)
    shapes = set()
    for value in rule.knob(knob).values:
        part = rule.default_part()
        part = Part(name, tuple((dict(part.knobs) | {knob: value}).items()), part.placement)
        attached = attach(model("bert", True), anatomy("bert"), Candidate((part,), parse(name).recipe))
        hooks_of(attached)
        shapes.add(tuple((key, tuple(one.shape), one.dtype) for key, one in attached.model.state_dict().items()))
    assert len(shapes) == 1


@pytest.mark.parametrize(("preset", "built"), [("lora", 5), ("default", 130)])
def test_a_thousand_candidates_need_few_whole_builds(preset: str, built: int) -> None:
    one = counter("bert")
    for candidate in drawn("bert", 1000, preset):
        try:
            one.count(candidate)
        except UnsupportedError:
            continue
    assert one.built <= built


def test_candidates_that_differ_in_factors_alone_are_counted_once() -> None:
    one = counter("bert")
    assert one.count(parse("lora(alpha=8)")) is one.count(parse("lora(alpha=64,use_rslora=true) | lr=0.5"))


def test_a_sum_that_is_wrong_is_found_out_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "_add", lambda self, plan, law: Held(1, (Saved("one", "F32", (1,)),)))
    one = counter("bert")
    for text in ("lora", "lora(r=4)@linear", "ia3 + bitfit"):
        assert one.count(parse(text)).trainable_params == trained("bert", parse(text)).trainable_params


def test_the_way_that_a_method_adds_up_is_not_taken_from_a_module_that_shares_with_none() -> None:
    one = counter("bert")
    one.count(parse("compacter(per_layer=true)"))
    for text in ("compacter(dense=true,n=2)@mlp.down[top:1]", "compacter(dense=true,n=2)@attention.output,mlp.down"):
        assert one.count(parse(text)) == trained("bert", parse(text))


@pytest.mark.parametrize(
    ("first", "text"),
    [
        ("lora + ia3 + lora@linear", "lora(r=1) + ia3@linear + lora(r=2)@attention[top:1]"),
        ("bitfit + prefix_tuning + lora(use_dora=true)", "bitfit + prefix_tuning + lora(r=1,use_dora=true)@linear"),
    ],
)
def test_the_file_of_a_hybrid_is_as_long_as_its_names_make_it(first: str, text: str) -> None:
    one = counter("bert")
    one.count(parse(first))
    assert one.count(parse(text)) == trained("bert", parse(text))


def test_modules_that_share_in_groups_are_built_whole() -> None:
    one = counter("t5")
    candidate = parse("lily(r=4)@linear")
    assert one.count(candidate) == trained("t5", candidate)


def test_a_refusal_is_the_same_each_time() -> None:
    one = counter("bert")
    messages = []
    for _ in range(2):
        with pytest.raises(UnsupportedError) as refused:
            one.count(parse("pissa(r=64)"))
        messages.append(str(refused.value))
    assert messages[0] == messages[1] == "pissa: r = 64 is more than the 16 that the smallest module has"


def test_projections_are_deployed_and_not_trained() -> None:
    counts = counter("bert").count(parse("vera(r=32)"))
    assert counts.deployed_params == counts.trainable_params + 2 * 32 * 16  # two projections, each of 32 by 16
    plain = counter("bert").count(parse("lora"))
    assert plain.deployed_params == plain.trainable_params


def test_the_size_of_a_file_follows_from_its_header() -> None:
    tensors = {"b": torch.zeros(3, 5), "a.long.name": torch.zeros(7, dtype=torch.int64), "c": torch.zeros(2).bfloat16()}
    names = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}
    saved = [Saved(name, names[one.dtype], tuple(one.shape)) for name, one in tensors.items()]
    assert file_bytes(saved) == len(safetensors.torch.save(tensors))


@pytest.mark.parametrize(
    "text",
    [
        "lora@attention.query + bitfit@mlp.up + ln_tuning@norm + serial_adapter@mlp.down",
        "lora(r=2)@attention.query + lora(r=4)@attention.value + bitfit@attention.query",
        "bitfit@attention + bitfit@attention.query,mlp.up + lora@mlp.up",
    ],
)
def test_three_and_more_parts_are_counted_by_their_pairs(text: str) -> None:
    one = counter("bert")
    parts = parse(text).parts
    one.count(parse(text))
    built = one.built
    counted = one.count(parse(text.replace("attention.query", "attention.key")))
    assert one.built - built <= 1
    assert one.count(parse(text)).trainable_params == one.whole(parts).trainable_params
    again = parse(text.replace("attention.query", "attention.key")).parts
    assert counted.trainable_params == one.whole(again).trainable_params


@pytest.mark.parametrize(
    "text",
    [
        "mask(density=0.003)",
        "diff_pruning(density=0.25)",
        "frod(sparse_rate=0.03)",
        "tinylora(weight_tying=0.3)",
        "supertuning(sparsity=0.9)",
        "tinylora(weight_tying=0.8,r=4)@linear",
        "mask(density=0.3)@mlp[top:1]",
    ],
)
def test_a_share_that_is_on_no_list_is_counted_right(text: str) -> None:
    counted, true = counter("bert").count(parse(text)), trained("bert", parse(text))
    assert counted == true


@pytest.mark.parametrize(
    "pair", [("randlora", "randlora"), ("vblora", "vblora"), ("full", "bitfit"), ("bitfit", "bitfit")]
)
def test_a_pair_apart_tells_nothing_of_one_on_the_same_modules(pair: tuple[str, str]) -> None:
    one, other = (f"{name}@{'[first:1]' if name == 'full' else 'attention.query'}" for name in pair)
    bare, found = without_weights("bert"), tiny("bert")[1]
    counts = Counter(bare, found)
    counts.count(parse(f"{one} + {pair[1]}@attention.value"))
    together = parse(f"{one} + {other}")
    assert counts.count(together) == Counter(bare, found).whole(tuple(map(counts._canonical, together.parts)))
