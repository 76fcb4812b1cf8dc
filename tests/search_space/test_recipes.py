"""The recipe in the space: fixed unless it is listed, drawn by name, said again in a sampler's words."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.candidate import Recipe
from search_space.notation import parse, write
from search_space.space import bind
from search_space.spec import SpaceSpec
from tests.search_space.choosers import Recorded, Replayed
from tests.search_space.test_space import ANATOMY, space_of
from tests.search_space.test_spec import problems, read

EVERYTHING = {
    "label_smoothing": [0, 0.1],
    "dropout": [0.1, 0.0],
    "weight_decay": [0.01],
    "mixup": [0.4, 0],
    "training_share": [1, 0.25, 0.5],
    "head_learning_rate": [1e-3, 2e-2],
}


def test_a_space_without_the_section_is_what_it_was() -> None:
    plain, chooser = space_of(preset="lora"), Recorded(Random(0))
    drawn = [plain.draw(chooser) for _ in range(20)]
    assert {Recipe(one.recipe.learning_rates) for one in drawn} == {one.recipe for one in drawn}
    assert not any(name.startswith("recipe") for name in chooser.asked)
    assert plain.size == space_of(preset="lora", recipe={}).size == space_of(preset="lora", recipe={"dropout": 0}).size
    assert "recipe" not in SpaceSpec().to_json()


def test_what_is_listed_is_drawn_under_its_own_name() -> None:
    space, chooser = space_of(methods=["ia3"], recipe=EVERYTHING), Recorded(Random(0))
    drawn = [space.draw(chooser).recipe for _ in range(200)]
    assert {one.label_smoothing for one in drawn} == {0.0, 0.1}
    assert {one.dropout for one in drawn} == {0.0, 0.1}
    assert {one.weight_decay for one in drawn} == {0.01}
    assert {one.mixup for one in drawn} == {0.0, 0.4}
    assert {one.training_share for one in drawn} == {0.25, 0.5, 1.0}
    assert all(1e-3 <= one.head_learning_rate <= 2e-2 for one in drawn)
    assert {name for name in chooser.domains if name.startswith("recipe.")} == {
        "recipe.label_smoothing.index",
        "recipe.dropout.index",
        "recipe.mixup.index",
        "recipe.training_share.index",
        "recipe.head_learning_rate",
    }
    assert space.size == 24 * space_of(methods=["ia3"]).size


@given(st.integers(0, 2**32))
@settings(max_examples=100)
def test_what_is_encoded_draws_the_same_recipe(seed: int) -> None:
    space = bind(read({"methods": ["lora", "bitfit"], "recipe": EVERYTHING}), ANATOMY)
    candidate = space.draw(Recorded(Random(seed)))
    replay = Replayed(space.encode(candidate))
    assert space.draw(replay) == candidate
    assert replay.unused == []
    assert parse(write(candidate)) == candidate


@pytest.mark.parametrize(
    ("recipe", "first"),
    [
        (EVERYTHING, Recipe((1.0,))),
        ({"label_smoothing": [0.2, 0.05]}, Recipe((1.0,), label_smoothing=0.05)),
        ({"head_learning_rate": [1e-4, 3e-3]}, Recipe((1.0,), head_learning_rate=5.48e-4)),
        ({"dropout": 0.3}, Recipe((1.0,), dropout=0.3)),
    ],
)
def test_the_first_candidate_is_as_near_to_the_defaults_as_can_be(recipe: dict[str, object], first: Recipe) -> None:
    space = space_of(preset="lora", recipe=recipe)
    candidate = space.usual()
    assert candidate.recipe == Recipe(candidate.recipe.learning_rates, *_beside(first))
    assert space.draw(Replayed(space.encode(candidate))) == candidate


def _beside(recipe: Recipe) -> tuple[float, ...]:
    return tuple(getattr(recipe, one.name) for one in fields(Recipe)[1:])


@pytest.mark.parametrize("text", ["dropout=0.2", "head_lr=0.5", "weight_decay=0.0", "label_smoothing=0.05", "mixup=1"])
def test_a_recipe_from_outside_cannot_be_encoded(text: str) -> None:
    space = space_of(methods=["ia3"], recipe=EVERYTHING)
    rate = space.parts["ia3"].learning_rate.default
    with pytest.raises(ValueError, match=r"recipe\.\w+ .* is outside the space"):
        space.encode(parse(f"ia3 | lr={rate} {text}"))


def test_the_section_is_written_as_it_is_read() -> None:
    spec = read({"recipe": EVERYTHING})
    assert spec.recipe is not None
    assert spec.recipe.dropout == (0.0, 0.1)
    assert spec.to_json()["recipe"] == {
        "label_smoothing": [0.0, 0.1], "dropout": [0.0, 0.1], "weight_decay": [0.01],
        "mixup": [0.0, 0.4], "training_share": [0.25, 0.5, 1.0], "head_learning_rate": [1e-3, 2e-2],
    }  # fmt: skip
    assert read(spec.to_json()) == spec
    assert read({"recipe": {"dropout": 0, "head_learning_rate": 1e-2}}) == read(
        json.loads('{"recipe": {"dropout": [0.0], "head_learning_rate": [0.01, 0.01]}}')
    )


@pytest.mark.parametrize(
    ("recipe", "path", "message"),
    [
        ({"label_smoothing": [0, 1]}, "recipe.label_smoothing", r"label_smoothing must be in \[0, 1\), not 1.0"),
        ({"dropout": [-0.1]}, "recipe.dropout", "dropout must be in"),
        ({"weight_decay": -1}, "recipe.weight_decay", "weight_decay must be at least 0"),
        ({"mixup": -0.1}, "recipe.mixup", "mixup must be at least 0, not -0.1"),
        ({"training_share": [0, 1]}, "recipe.training_share", r"training_share must be in \(0, 1\], not 0.0"),
        ({"training_share": 2}, "recipe.training_share", r"training_share must be in \(0, 1\], not 2.0"),
        ({"dropout": [True]}, "recipe.dropout", "expected numbers, not True"),
        ({"dropout": "0.1"}, "recipe.dropout", "expected numbers, not '0.1'"),
        ({"dropout": []}, "recipe.dropout", "expected 1 to 200 values, not 0"),
        ({"dropout": [0, 0.0]}, "recipe.dropout", "a value is listed twice"),
        ({"head_learning_rate": [2e-2, 1e-3]}, "recipe.head_learning_rate", "a range needs 0 < low <= high"),
        ({"head_learning_rate": [1, 2, 3]}, "recipe.head_learning_rate", r"expected \[low, high\] or one number"),
        ({"learning_rate": 1e-3}, "recipe.learning_rate", "Extra inputs are not permitted"),
    ],
)
def test_every_mistake_is_told_at_its_path(recipe: dict[str, object], path: str, message: str) -> None:
    found = problems({"recipe": recipe})
    assert set(found) == {path}
    assert re.search(message, found[path])
