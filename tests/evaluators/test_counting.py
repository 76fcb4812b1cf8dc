"""Counts before training: to the last number those of the model that is trained, and mostly without building it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from random import Random

import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

from evaluators import part_laws
from evaluators.anatomy import anatomy_of
from evaluators.attach import attach, beside_head
from evaluators.counting import Counter, Counts
from evaluators.deployed import Kept, deployed_params
from evaluators.hooks import hooks_of
from evaluators.hybrid_names import Placed, Tensors
from evaluators.part_laws import Held, PartLaws
from evaluators.saved import Saved, entry, file_bytes
from evaluators.size_formulas import Brought, Formulas, Sizes
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


def deep() -> tuple[nn.Module, Anatomy]:
    """Return a narrow BERT of twelve layers, and its anatomy."""
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=12, num_hidden_layers=12, num_attention_heads=2, intermediate_size=16
    )
    with torch.device("meta"):
        narrow = transformers.BertForSequenceClassification(config).requires_grad_(False)
    return narrow, anatomy_of(narrow)


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


@pytest.mark.parametrize(("preset", "built"), [("lora", 5), ("default", 30), ("everything", 150)])
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
    wrong = Held(1, (Placed("", Tensors((Saved("one", "F32", (1,)),))),))
    monkeypatch.setattr(PartLaws, "_by", lambda self, plan, law: None if law == "whole" else wrong)
    one = counter("bert")
    for text in (
        "lora",
        "lora(r=4)@linear",
        "ia3 + bitfit",
        "prompt_tuning",
        "lily",
        "lst(reduction=4,heads=1)@[top:1]",
    ):
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


@pytest.mark.parametrize(
    "texts",
    [
        ("lily(r=4)@linear", "lily(r=8,num_B=3)@linear", "lily(r=2,stride_A=2)@linear", "lily@attention[top:1]"),
        ("tinylora(u=4)", "tinylora(u=4,weight_tying=0.5)@linear", "tinylora(u=8,r=4,weight_tying=1.0)@mlp[first:1]"),
        ("lst(reduction=4,heads=1)", "lst(reduction=8,heads=2)", "lst(reduction=4,heads=1)@[top:1]"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_what_modules_share_in_groups_and_what_layers_climb_is_counted_in_place(
    name: str, texts: tuple[str, ...]
) -> None:
    one = counter(name)
    for text in texts:
        counted = one.count(parse(text))
        assert counted == trained(name, parse(text))
    built = one.built
    for text in texts:
        one.count(parse(text.replace("u=4", "u=5").replace("r=4", "r=3").replace("heads=1", "heads=2")))
    assert one.built == built


def test_prompts_are_counted_without_building_the_layers() -> None:
    one = counter("bert")
    for text in ("prompt_tuning", "p_tuning", "prefix_tuning", "gated_prefix", "cartridge"):
        one.count(parse(text))
    built = one.built
    for text in (
        "prompt_tuning(num_virtual_tokens=5)", "p_tuning(num_virtual_tokens=3,encoder_hidden_size=5)",
        "prefix_tuning@[top:1]", "gated_prefix(num_virtual_tokens=3)@[first:1]", "cartridge(num_virtual_tokens=9)",
        "prefix_tuning(num_virtual_tokens=3/5)",
    ):  # fmt: skip
        assert one.count(parse(text)) == trained("bert", parse(text)), text
    assert one.built == built


@pytest.mark.parametrize("name", ["prefix_tuning", "prompt_tuning", "p_tuning"])
def test_prompts_of_other_lengths_on_other_layers_need_no_model_at_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Counter(*deep())
    places = ["@[top:4]", "@[top:5]", "@[first:9]"] if name == "prefix_tuning" else [""]
    texts = [f"{name}(num_virtual_tokens={tokens}){place}" for tokens in (2, 16, 17, 18) for place in places]
    expected = {text: one.whole(parse(text).parts) for text in texts}
    for text in texts[: -2 * len(places)]:
        assert one.count(parse(text)) == expected[text]
    one.count(parse(texts[-1]))  # the first that a formula can be used for
    monkeypatch.setattr(part_laws, "attach", None)
    for text in texts:
        assert one.count(parse(text)) == expected[text]


def test_in_place_is_tried_on_all_layers_once_and_on_a_few_at_other_knobs() -> None:
    one = Counter(*deep())
    one.count(parse("tinylora(weight_tying=0.5)"))
    assert one.built == 2
    text = "tinylora(weight_tying=1.0)"
    assert one.count(parse(text)) == one.whole(parse(text).parts)
    assert one.built == 2 + 1 + 1


def test_what_is_for_no_layers_is_built_once_to_be_tried() -> None:
    one = counter("bert")
    one.count(parse("p_tuning"))
    assert one.built == 1


def test_the_collector_works_after_a_count_as_before_it() -> None:
    assert gc.isenabled()
    with pytest.raises(UnsupportedError):
        counter("bert").count(parse("pissa(r=64)"))
    assert gc.isenabled()
    gc.disable()
    try:
        counter("bert").count(parse("lora"))
        assert not gc.isenabled()
    finally:
        gc.enable()


def brought(*shapes: tuple[int, ...]) -> Brought:
    return Brought(shapes[:1], tuple(Saved(f"{at}", "F32", shape) for at, shape in enumerate(shapes)))


def asked(shapes: Callable[[Sizes], tuple[tuple[int, ...], ...]], cases: list[dict[str, int]]) -> int:
    """Ask for all cases and check them; return how often something was injected."""
    formulas, injected = Formulas(), 0

    def bring(at: Sizes) -> Brought:
        nonlocal injected
        injected += 1
        return brought(*shapes(at))

    for sizes in cases:
        assert formulas.find("kind", sizes, bring) == brought(*shapes(sizes))
    return injected


RANKS = [{"r": r, "width": width} for r in (2, 4, 8, 16) for width in (32, 64)]


def test_a_product_of_sizes_is_found_and_then_believed() -> None:
    assert asked(lambda at: ((at["r"], at["width"]), (3 * at["r"] * at["width"], 5)), RANKS) == 3


def test_a_formula_is_looked_for_when_it_can_be_used_and_not_before() -> None:
    shapes = lambda at: ((at["r"], at["width"]),)  # noqa: E731
    orders = [{"r": r, "width": 32} for r in (2, 32, 64)]
    assert asked(shapes, orders) == 3
    assert asked(shapes, [*orders, {"r": 4, "width": 32}, {"r": 128, "width": 32}]) == 4


def test_a_formula_that_an_earlier_case_contradicts_is_none() -> None:
    odd = [{"r": 2, "width": 32}, {"r": 4, "width": 32}, {"r": 8, "width": 32}, {"r": 16, "width": 32}]
    assert asked(lambda at: ((9 if at["r"] == 4 else at["r"], 5),), odd) == 5


@pytest.mark.parametrize(
    "shapes",
    [
        lambda at: ((at["width"] // at["r"], at["r"]),),
        lambda at: ((at["r"] + 1, at["width"]),),
        lambda at: ((at["r"] * (at["r"] - 1) // 2,),),
        lambda at: ((1,),) * at["r"],
    ],
)
def test_what_is_no_product_of_sizes_is_injected_each_time(
    shapes: Callable[[Sizes], tuple[tuple[int, ...], ...]],
) -> None:
    assert asked(shapes, RANKS) >= len(RANKS)


def test_the_lesser_of_two_sizes_is_found_out_where_their_order_changes() -> None:
    cases = [{"r": r, "width": width} for width in (8, 16, 32) for r in (2, 4, 64, 128)]
    assert asked(lambda at: ((min(at["r"], at["width"]), 7),), cases) > 3


def test_the_lesser_of_a_size_and_a_width_that_stays_is_found_out() -> None:
    formulas = Formulas()
    for r in (2, 4, 8, 16, 32, 64):
        right = brought((min(r, 16), 5))
        assert formulas.find("kind", {"r": r}, lambda at: brought((min(at["r"], 16), 5)), {16, 48}) == right


@pytest.mark.parametrize("r", [2, 8, 16, 32])
def test_ranks_above_the_width_of_a_transposed_module_are_counted_right(r: int) -> None:
    one = counter("gpt2")
    for rank in (2, 4, 8, 16, r):
        candidate = parse(f"deft(para=true,r={rank})@mlp[top:1]")
        assert one.count(candidate) == trained("gpt2", candidate)


def test_what_is_refused_at_some_sizes_is_refused_there_with_a_formula_too() -> None:
    def bring(at: Sizes) -> Brought:
        if at["width"] % at["r"]:
            raise ValueError("does not divide")
        return brought((at["r"], at["width"]))

    formulas = Formulas()
    for r in (2, 4, 8):
        formulas.find("kind", {"r": r, "width": 32}, bring)
    with pytest.raises(ValueError, match="does not divide"):
        formulas.find("kind", {"r": 3, "width": 32}, bring)


@pytest.mark.parametrize("text", ["lora", "lora + prefix_tuning", "pissa + bitfit", "lily@linear", "full@[top:1]"])
def test_the_trainable_number_alone_is_that_of_the_count(text: str) -> None:
    assert counter("bert").trainable_params(parse(text)) == counter("bert").count(parse(text)).trainable_params


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
    assert file_bytes(entry(one, one.name) for one in saved) == len(safetensors.torch.save(tensors))


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
