"""The recipe of CONTRIBUTING.md for a PEFT method, followed to the letter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

import search_space.methods
from evaluators.attach import attach
from evaluators.costing import MetaCoster
from evaluators.memory import Load
from evaluators.probing import train
from evaluators.spec import ModelSpec
from evaluators.specimens import tiny
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
    model, anatomy = tiny("bert")
    attached = attach(model, anatomy, parse(added.name))
    assert attached.trainable_params > 0
    train(attached, "bert")


TRIED = """
import sys
from evaluators.probing import probe_method
from evaluators.tuners.registration import TUNERS
name = sys.argv[1]
assert name in [one for one, *_ in TUNERS]
for architecture in ("bert", "llama"):
    failed = probe_method(name, architecture)
    assert set(failed) <= {"merges"}, failed
print("tried", name)
"""


def test_a_tuner_is_added_by_a_folder_and_a_file(tmp_path: Path) -> None:
    """In a process of its own: peft's enumeration of types only ever grows."""
    recipes = re.findall(
        r"as\s+`((?:evaluators|search_space)/[\w/]+\.py)`:\s+<!-- recipe: [\w ]*tuner -->\s+```python\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert [path.split("/")[0] for path, _ in recipes] == ["evaluators", "search_space"]
    for package in ("search_space", "calibration", "evaluators"):
        shutil.copytree(PAGE.parent / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in recipes:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code, encoding="utf-8")
    name = Path(recipes[1][0]).stem
    tried = subprocess.run(
        [sys.executable, "-c", TRIED, name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert tried.returncode == 0, tried.stderr[-3000:]
    assert f"tried {name}" in tried.stdout


def test_nothing_of_the_recipe_stays_behind() -> None:
    found = RECIPE.search(PAGE.read_text(encoding="utf-8"))
    assert found
    assert found[1] not in methods()
