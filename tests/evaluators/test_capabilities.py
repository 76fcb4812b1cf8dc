"""The table of capabilities is what trying gives."""

from __future__ import annotations

import json
from random import Random

import pytest

from evaluators.attach import attach
from evaluators.capabilities import FAMILIES, probe_everything, probe_method, probe_pair, tiny, train
from search_space.capability import TABLE_FILE, can, why_not, why_not_together
from search_space.hybrids import NAMED
from search_space.notation import parse
from search_space.registry import methods

TABLE = json.loads(TABLE_FILE.read_text())
NAMES = sorted(TABLE["methods"])
SAMPLE = [tuple(Random(seed).choices(NAMES, k=2)) for seed in range(12)]


def test_every_method_is_in_the_table() -> None:
    assert [name for name, one in methods().items() if one.route in ("inject", "prompt")] == NAMES


@pytest.mark.parametrize("name", ["adalora", "mask", "prefix_tuning", "road"])
def test_a_methods_row_is_what_trying_gives(name: str) -> None:
    assert TABLE["methods"][name] == {family: probe_method(name, family) for family in FAMILIES}


@pytest.mark.parametrize(("first", "second"), SAMPLE)
@pytest.mark.parametrize("layers", ["shared", "disjoint"])
def test_a_pairs_entry_is_what_trying_gives(first: str, second: str, layers: str) -> None:
    assert bool(why_not_together(first, second, layers)) == bool(probe_pair(first, second, layers))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_table_is_what_trying_gives() -> None:
    found = probe_everything()
    assert found["methods"] == TABLE["methods"]
    assert found["refused_pairs"].keys() == TABLE["refused_pairs"].keys()


@pytest.mark.parametrize("text", [*NAMED.values(), "lora + lora", "lora + adalora", "lora + ia3 + bitfit"])
def test_named_hybrids_train_in_all_their_parts(text: str) -> None:
    model, anatomy = tiny("bert")
    train(attach(model, anatomy, parse(text)), anatomy)


def test_the_table_is_asked_by_name() -> None:
    assert can("lora", "merges") == tuple(sorted(FAMILIES))
    assert "cannot wrap" in why_not("road", "attaches", "gpt2")
    assert why_not("lora", "attaches", "unknown") == ""
    assert why_not_together("lora", "bitfit", "shared") == ""
