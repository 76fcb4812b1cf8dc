"""The published spaces have the sizes of their papers, and can be narrowed and widened."""

from __future__ import annotations

from random import Random

import pytest

from search_space.errors import PlacementError
from search_space.spec import SpaceSpec, presets
from tests.search_space.choosers import Recorded
from tests.search_space.test_space import space_of


@pytest.mark.parametrize("layers", [4, 6, 12])
def test_autopeft_is_as_large_as_in_its_paper(layers: int) -> None:
    size = space_of(layers, preset="autopeft").size
    assert size == (11**3 - 1) * (2**layers - 1)
    assert layers != 12 or size == 5_446_350


def test_a_preset_is_narrowed_by_naming_its_hybrid() -> None:
    """What is left out is taken from the preset's hybrid of that name."""
    narrow = space_of(12, preset="autopeft", hybrids=[{"name": "autopeft", "layers": ["all", "top:6"]}])
    assert narrow.size == (11**3 - 1) * 2
    parts = [
        {"method": "serial_adapter", "r": [0, 8], "activation": "relu", "projections": "mlp.down"},
        {"method": "ia3"},
    ]
    other = space_of(12, preset="autopeft", hybrids=[{"name": "autopeft", "parts": parts}])
    assert list(other.parts) == ["autopeft.serial_adapter", "autopeft.ia3"]


def test_a_preset_is_widened_by_methods_beside_its_hybrid() -> None:
    wide = space_of(12, preset="autopeft", methods={"lora": {}})
    assert [one.name for one in wide.compositions] == ["lora", "autopeft"]


def test_a_hybrid_of_its_own_is_kept_as_it_was_written() -> None:
    spec = SpaceSpec.model_validate({"preset": "autopeft", "hybrids": [{"name": "autopeft", "layers": "subset:4"}]})
    assert SpaceSpec.model_validate(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("preset", "layers", "size"),
    [
        ("noah", 12, (3**3 + 3**6 + 3**9 + 3**12) ** 3),
        ("noah", 6, (3**3 + 3**6) ** 3),
        ("s3delta", 12, 2 ** (15 * 12) - 1),
        ("bipeft", 12, 2 ** (23 * 12) - 1),
        ("s4", 12, (65 + 1) ** 3 * (15 + 1) - 1),
        ("s4", 6, (65 + 1) ** 3 * (15 + 1) - 1),
        ("lonas", 12, 531_441),
    ],
)
def test_the_published_spaces_have_the_sizes_that_they_say(preset: str, layers: int, size: int) -> None:
    assert space_of(layers, preset=preset).size == size


@pytest.mark.parametrize("preset", ["bipeft", "s3delta", "lonas", "noah", "s4"])
def test_the_sizes_are_right_on_one_layer_or_few_by_enumeration(preset: str) -> None:
    """Spaces that are small enough are drawn until nothing new comes."""
    layers = {"bipeft": 1, "s3delta": 1, "lonas": 3, "noah": 2, "s4": 4}[preset]
    spec = {"bipeft": [0, 6, 12], "s3delta": [0, 6, 12, 13], "lonas": [0], "noah": [0, 1], "s4": [3]}[preset]
    whole = presets()[preset]["hybrids"][0]
    chosen = [whole["parts"][index] for index in spec]
    few = {**whole, "parts": [one | {"layers": ["first:1", "all"]} for one in chosen] if preset == "noah" else chosen}
    space = space_of(layers, methods={}, hybrids=[few])
    chooser = Recorded(Random(0))
    seen = {space.draw(chooser).architecture_sha256 for _ in range(40 * space.size)}
    assert len(seen) == space.size < 1500


@pytest.mark.parametrize("name", ["autopeft", "noah", "s3delta", "s4", "bipeft", "lonas"])
def test_a_published_space_searches_no_learning_rate(name: str) -> None:
    for _, part in space_of(12, preset=name).compositions[0].parts:
        assert part.learning_rate.low == part.learning_rate.high == part.rule.learning_rate.default


def test_a_preset_that_a_model_cannot_carry_at_all_says_why() -> None:
    with pytest.raises(PlacementError, match="4 groups need at least as many layers"):
        space_of(3, preset="s4")
