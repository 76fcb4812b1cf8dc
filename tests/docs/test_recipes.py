"""The recipe of CONTRIBUTING.md for a PEFT method, followed to the letter."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

import search_space.methods
from evaluators.costing import MetaCoster
from evaluators.memory import Load
from evaluators.spec import ModelSpec
from orchestrator.cli.dry_run import RandomChooser
from search_space.candidate import Candidate
from search_space.notation import parse, write
from search_space.registry import Method, method, methods
from search_space.space import bind
from search_space.spec import SpaceSpec

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
RECIPE = re.compile(r"as `search_space/methods/(\w+)\.py`:\s+<!-- recipe: method -->\s+```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def added(tmp_path: Path) -> Iterator[Method]:
    """Register the method of the recipe as a file in a folder of `search_space.methods`, and take it away again."""
    found = RECIPE.search(PAGE.read_text(encoding="utf-8"))
    assert found, f"{PAGE.name} has lost its recipe for a PEFT method"
    name, code = found.groups()
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    search_space.methods.__path__.append(str(tmp_path))
    methods.cache_clear()
    try:
        yield method(name)
    finally:
        search_space.methods.__path__.remove(str(tmp_path))
        sys.modules.pop(f"search_space.methods.{name}", None)
        methods.cache_clear()


def coster() -> MetaCoster:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
    )
    return MetaCoster(ModelSpec(name="-"), config, Load(2, 8, 2))


def test_a_method_is_added_by_one_file(added: Method) -> None:
    costs = coster()
    spec = SpaceSpec.model_validate({"methods": [added.name, "bitfit"], "hybrids": [f"{added.name} + bitfit"]})
    space = bind(spec, costs.anatomy)
    chooser = RandomChooser(0)
    drawn = [space.draw(chooser) for _ in range(40)]
    ours = [one for one in drawn if added.name in one.method]
    assert {one.method for one in ours} == {added.name, f"{added.name} + bitfit"}
    for one in ours:
        assert parse(write(one)) == one
        assert Candidate.from_json(one.to_json()) == one
    assert costs.cost(ours[0]).trainable_params > 0


def test_nothing_of_the_recipe_stays_behind() -> None:
    found = RECIPE.search(PAGE.read_text(encoding="utf-8"))
    assert found
    assert found[1] not in methods()
