"""What can be drawn as layers: listed selectors, or any subset, one bit for each layer or group."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from search_space.errors import PlacementError
from search_space.layer_choice import LayerChoice
from search_space.layers import Layers
from tests.search_space.choosers import Recorded, Replayed


def subset(n_layers: int, *texts: str) -> LayerChoice:
    return LayerChoice.of(texts, n_layers)


def every_draw(choice: LayerChoice, bits: int) -> list[Layers | None]:
    """Draw with every combination of bits that a sampler may say."""
    names = choice._names("x")
    return [choice.draw("x", Replayed(dict(zip(names, said, strict=True)))) for said in product((0, 1), repeat=bits)]


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_any_subset_but_the_empty_one_is_drawn(n_layers: int) -> None:
    choice = subset(n_layers, "subset")
    drawn = every_draw(choice, n_layers)
    assert None not in drawn
    assert len(set(drawn)) == choice.size == 2**n_layers - 1
    assert all(one is not None and one.indices(n_layers) for one in drawn)


def test_a_subset_that_may_be_none_leaves_the_part_out() -> None:
    choice = subset(3, "none", "subset")
    drawn = every_draw(choice, 3)
    assert drawn[0] is None
    assert len(set(drawn)) == choice.size + 1 == 8


def test_groups_are_the_spindle_of_s4() -> None:
    choice = subset(6, "subset:4")
    assert choice.units == ((0,), (1, 2), (3, 4), (5,))
    drawn = every_draw(choice, 4)
    assert len(set(drawn)) == choice.size == 15
    assert Layers.parse("bits:011000") in drawn


def test_every_bit_is_asked_every_time_with_one_domain() -> None:
    chooser = Recorded(Random(0))
    for _ in range(50):
        chooser.asked.clear()
        subset(3, "subset").draw("x", chooser)
        assert sorted(chooser.asked) == ["x.layers.0", "x.layers.1", "x.layers.2"]
    assert set(chooser.domains.values()) == {(0, 1)}


@pytest.mark.parametrize(
    "texts", [("subset",), ("none", "subset"), ("subset:2",), ("all", "top:2"), ("none", "all"), None]
)
def test_what_is_encoded_draws_the_same_layers(texts: tuple[str, ...] | None) -> None:
    choice = LayerChoice.of(texts, 5)
    for seed in range(100):
        layers = choice.draw("x", Recorded(Random(seed)))
        replay = Replayed(choice.encode("x", layers))
        assert choice.draw("x", replay) == layers
        assert replay.unused == []


@pytest.mark.parametrize(
    ("texts", "layers"),
    [
        (("subset",), None),
        (("subset",), "all"),
        (("subset:2",), "bits:0100"),
        (("all",), "top:1"),
        (("subset",), "top:1"),
    ],
)
def test_what_is_not_offered_cannot_be_encoded(texts: tuple[str, ...], layers: str | None) -> None:
    with pytest.raises(ValueError, match="x"):
        LayerChoice.of(texts, 4).encode("x", None if layers is None else Layers.parse(layers))


def test_more_groups_than_layers_are_refused() -> None:
    with pytest.raises(PlacementError, match="4 groups need at least as many layers, the model has 3"):
        subset(3, "subset:4")


def test_the_smallest_are_the_units_alone_or_what_is_listed() -> None:
    assert [str(one) for one in subset(3, "subset").smallest()] == ["bits:100", "bits:010", "bits:001"]
    assert [str(one) for one in subset(3, "none", "all", "top:2").smallest()] == ["all", "top:2"]
