"""The published spaces have the sizes of their papers, and can be narrowed and widened."""

from __future__ import annotations

import pytest

from search_space.spec import SpaceSpec
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
