"""The table of capabilities is what trying gives."""

from __future__ import annotations

import importlib.util
import json
from itertools import product
from random import Random

import pytest

from evaluators.attach import attach
from evaluators.capabilities import probe_everything
from evaluators.probing import (
    probe_conversion,
    probe_hybrid,
    probe_pair,
    probe_per_task,
    probe_quantised,
    train,
)
from evaluators.specimens import SPECIMENS, tiny
from search_space.candidate import Candidate, Part, Recipe
from search_space.capability import (
    PAIR_FAMILIES,
    TABLE_FILE,
    can,
    conversion_error,
    quantisations,
    trains_quantised,
    why_not,
    why_not_per_task,
    why_not_quantised,
    why_not_together,
)
from search_space.hybrids import NAMED
from search_space.notation import parse
from search_space.registry import method, methods

TABLE = json.loads(TABLE_FILE.read_text())
NAMES = sorted(TABLE["methods"])
CARRIED = {
    family: [name for name in NAMES if not TABLE["methods"][name][family].keys() & {"attaches", "trains", "reloads"}]
    for family in PAIR_FAMILIES
}
SAMPLE = [
    (*Random(f"{seed} of {family}").choices(CARRIED[family], k=2), family)
    for family in PAIR_FAMILIES
    for seed in range(6)
]
OFFERED = [(*pair, family) for family in PAIR_FAMILIES for pair in product(CARRIED[family], repeat=2)]
both = pytest.mark.skipif(
    not (importlib.util.find_spec("bitsandbytes") and importlib.util.find_spec("torchao")),
    reason="needs paretune[quantization]",
)


def test_every_method_is_in_the_table() -> None:
    wanted = [name for name, one in methods().items() if one.route in ("inject", "prompt")]
    assert wanted == NAMES == sorted(TABLE["quantised"]["cpu"]) == sorted(TABLE["converts"])
    assert all(tuple(sorted(rows)) == tuple(sorted(SPECIMENS)) for rows in TABLE["methods"].values())
    assert tuple(sorted(TABLE["refused_pairs"])) == PAIR_FAMILIES


@pytest.mark.parametrize(("first", "second", "family"), SAMPLE)
@pytest.mark.parametrize("layers", ["shared", "disjoint"])
def test_a_pairs_entry_is_what_trying_gives(first: str, second: str, family: str, layers: str) -> None:
    refused = why_not_together(first, second, layers, family)  # type: ignore[arg-type]
    assert bool(refused) == bool(probe_pair(first, second, layers, family))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "family"), OFFERED)
def test_every_pairs_entry_is_what_trying_gives(first: str, second: str, family: str) -> None:
    for layers in ("shared", "disjoint"):
        refused = why_not_together(first, second, layers, family)  # type: ignore[arg-type]
        assert bool(refused) == bool(probe_pair(first, second, layers, family)), layers


def test_the_rows_of_some_methods_are_tried_anew_and_the_others_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.capabilities.SPECIMENS", ("bert",))
    monkeypatch.setattr("evaluators.capabilities.QUANTIZATIONS", ())
    monkeypatch.setattr("evaluators.capabilities.PAIR_FAMILIES", ())
    found = probe_everything(["ia3"], TABLE)
    assert found["methods"]["ia3"] == {"bert": {}}
    assert found["methods"]["lora"] == TABLE["methods"]["lora"]


@both
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("lora", "nf4"), ("lora", "int8"), ("ia3", "int8"), ("mask", "torchao_int4"), ("loftq", "torchao_int8")],
)
def test_a_quantised_row_is_what_trying_gives(name: str, kind: str) -> None:
    found, known = probe_quantised(name, kind), TABLE["quantised"]["cpu"][name][kind]
    assert (set(found), set(found.get("knobs", {}))) == (set(known), set(known.get("knobs", {})))


@both
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "kind"), list(product(NAMES, quantisations())))
def test_every_quantised_row_is_what_trying_gives(name: str, kind: str) -> None:
    found, known = probe_quantised(name, kind), TABLE["quantised"]["cpu"][name][kind]
    assert (set(found), set(found.get("knobs", {}))) == (set(known), set(known.get("knobs", {})))


@pytest.mark.parametrize(("name", "exact"), [("waveft", False), ("qa_lora", True)])
def test_a_conversion_is_what_trying_gives(name: str, exact: bool) -> None:
    error = probe_conversion(name)
    assert error == pytest.approx(TABLE["converts"][name], abs=0.02)
    assert isinstance(error, float)
    assert (error < 1e-3) == exact


@pytest.mark.parametrize("name", ["gated_prefix", "mtl_lora"])
def test_what_peft_does_not_know_is_not_converted(name: str) -> None:
    assert probe_conversion(name) == TABLE["converts"][name] == "peft does not know it"


@pytest.mark.parametrize("text", [*NAMED.values(), "lora + lora", "lora + adalora", "lora + ia3 + bitfit"])
def test_named_hybrids_train_in_all_their_parts(text: str) -> None:
    model, anatomy = tiny("bert")
    train(attach(model, anatomy, parse(text)), "bert")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("lora@attention + serial_adapter@mlp.down + bitfit", "t5"),
        ("ia3@mlp.down + lora@attention + prefix_tuning", "llama"),
        ("lora + lst + bitfit", "llama"),
        ("lst + lora", "bert"),
        ("unipelt + gated_prefix + bitfit", "bert"),
        ("vera@attention + mask@mlp + ln_tuning", "roberta"),
    ],
)
def test_parts_work_in_threes_and_around_whole_layers(text: str, family: str) -> None:
    assert probe_hybrid(parse(text), family) == ""


def test_what_wraps_whole_layers_may_be_written_anywhere() -> None:
    model, anatomy = tiny("bert")
    one, other = (attach(model, anatomy, parse(text)) for text in ("lst + lora", "lora + lst"))
    assert one.trainable_params == other.trainable_params
    assert [len(part) for part in one.parts] == [len(part) for part in reversed(other.parts)]


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("lora + lora(use_dora=true)", 1),
        ("lora(use_dora=true) + lora", 1),
        ("pissa + lora(use_dora=true) + lora_plus", 1),
        ("lora(use_dora=true,per_task=true)", 2),
        ("lora(use_dora=true,use_rslora=true,per_task=true)", 2),
    ],
)
def test_adapters_in_one_layer_are_counted_from_shapes(text: str, tasks: int) -> None:
    assert probe_hybrid(parse(text), "bert", tasks) == ""


def test_a_hybrid_that_is_counted_wrong_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.probing.without_weights", lambda family, tasks: tiny("t5", tasks)[0])
    assert "were predicted from shapes" in probe_hybrid(parse("lora + ia3"), "bert")


@pytest.mark.slow
@pytest.mark.parametrize("family", PAIR_FAMILIES)
@pytest.mark.parametrize("seed", range(40))
def test_three_parts_whose_pairs_are_offered_work(family: str, seed: int) -> None:
    random = Random(f"{seed} of three on {family}")
    while True:
        names = random.sample([name for name in CARRIED[family] if method(name).route == "inject"], 3)
        pairs = [(names[i], names[j]) for i in range(3) for j in range(i + 1, 3)]
        if not any(why_not_together(*pair, layers, family) for pair in pairs for layers in ("shared", "disjoint")):  # type: ignore[arg-type]
            break
    parts = tuple(Part(name, method(name).default_part().knobs, method(name).placement.default) for name in names)
    rates = tuple(method(name).learning_rate.default for name in names)
    assert probe_hybrid(Candidate(parts, Recipe(rates)), family) == "", names


@pytest.mark.parametrize("name", ["lora", "compacter", "vera", "adalora", "adaption_prompt"])
def test_an_adapter_for_each_task_is_what_trying_gives(name: str) -> None:
    assert probe_per_task(name) == why_not_per_task(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_for_each_task_is_what_trying_gives(name: str) -> None:
    assert probe_per_task(name) == why_not_per_task(name)


def test_the_table_is_asked_by_name() -> None:
    assert set(can("lora", "merges")) == set(SPECIMENS)
    assert "cannot wrap" in why_not("road", "attaches", "gpt2")
    assert why_not("road", "trains", "gpt2") == why_not("road", "attaches", "gpt2")
    assert why_not("lora", "attaches", "unknown") == ""
    assert why_not_together("lora", "bitfit", "shared", "bert") == ""
    assert why_not_together("lora", "bitfit", "shared", "unknown") == ""
    assert "nf4" in trains_quantised("lora")
    assert "quantised weight" in why_not_quantised("mask", "trains", "nf4")
    assert conversion_error("lora") == pytest.approx(0, abs=1e-4)
    assert conversion_error("serial_adapter") is None
