"""Modules by their full names: for architectures whose places have no names that are known."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from search_space.candidate import Candidate
from search_space.errors import NotationError, PlacementError
from search_space.notation import parse, write
from search_space.placement import Anatomy, Placement
from search_space.space import bind, resolve
from search_space.spec import SpaceSpec
from search_space.tally import Tally
from tests.search_space.choosers import Recorded, Replayed
from tests.search_space.counted import Counted
from tests.search_space.test_space import tiny_anatomy
from tests.search_space.test_spec import problems, read

ONE, OTHER = "module:layer.0.attention.query", "module:layer.2.mlp.up"


def unknown(layers: int = 3) -> Anatomy:
    """A model whose modules compute nothing that has a name."""
    anatomy = tiny_anatomy(layers)
    return replace(anatomy, architecture="odd", sites=tuple(replace(one, projections=()) for one in anatomy.sites))


def test_modules_are_resolved_by_their_full_names() -> None:
    targets = resolve(parse(f"lora(r=2)@{OTHER},{ONE}").parts[0], unknown())
    assert targets.names == ["layer.0.attention.query", "layer.2.mlp.up"]


def test_modules_stand_beside_projections() -> None:
    targets = resolve(parse(f"lora@mlp.down,{ONE}").parts[0], tiny_anatomy(2))
    assert targets.names == ["layer.0.attention.query", "layer.0.mlp.down", "layer.1.mlp.down"]


def test_the_notation_and_the_json_bring_modules_back() -> None:
    candidate = parse(f"lora(r=2)@{OTHER},attention,{ONE} + bitfit@{ONE}[bits:100]")
    assert parse(write(candidate)) == candidate
    assert Candidate.from_json(candidate.to_json()) == candidate
    assert str(candidate.parts[0].placement) == f"attention,{ONE},{OTHER}"
    assert Placement.parse(f"{OTHER},{ONE}") == Placement.parse(f"{ONE},{OTHER}")


@pytest.mark.parametrize(
    "word", ["module:", "module:a b", "module:.*", "module:a..b", "module:a.", "module:[ab]", "module:a|b", "module:1a"]
)
def test_a_pattern_is_never_a_module(word: str) -> None:
    with pytest.raises(NotationError):
        Placement.parse(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("module:layer.0.attention.qery", "did you mean 'layer.0.attention.query'"),
        ("module:query", "odd has no module 'query' that a method can change; it has modules such as"),
        ("module:classifier.dense", "belongs to the head"),
        (f"{OTHER}[top:1]", None),
        (f"{ONE}[top:1]", "'layer.0.attention.query' is not in layers 'top:1'"),
        ("attention", "other modules are given by their full names"),
    ],
)
def test_what_the_model_lacks_is_said_with_what_it_has(word: str, message: str | None) -> None:
    part = parse(f"lora@{word}").parts[0]
    if message is None:
        assert resolve(part, unknown()).names == ["layer.2.mlp.up"]
        return
    with pytest.raises(PlacementError) as refused:
        resolve(part, unknown())
    assert message in str(refused.value)


def test_a_study_searches_over_modules() -> None:
    spec = {"methods": {"lora": {"projections": [ONE, f"{ONE},{OTHER}"], "layers": "all"}}, "hybrids": []}
    assert read(read(spec).to_json()) == read(spec)
    space, chooser = bind(SpaceSpec.model_validate(spec), unknown()), Recorded(Random(0))
    tally, exact = Tally(Counted(unknown()), unknown()), Counted(unknown())
    seen = set()
    for _ in range(30):
        candidate = space.draw(chooser)
        assert space.draw(Replayed(space.encode(candidate))) == candidate
        assert tally(candidate) == exact(candidate)
        seen.add(str(candidate.parts[0].placement))
    assert seen == {ONE, f"{ONE},{OTHER}"}


def test_a_mistake_in_a_module_stands_at_its_method() -> None:
    found = problems({"methods": {"lora": {"projections": "module:.*query"}}})
    assert "write its full dotted name" in found["methods.lora"]
