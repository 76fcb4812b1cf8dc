"""LoRA put where it is worth most: found within the budget, in spaces that say places and ranks differently."""

from __future__ import annotations

import pytest

from search_space.allocation import allocate, by_position, by_rank
from search_space.space import Space
from search_space.tally import Tally
from tests.search_space.counted import Counted
from tests.search_space.test_space import space_of

PLAIN = {"alpha": 16, "use_rslora": False, "use_dora": False}


def tally_of(space: Space) -> Tally:
    return Tally(Counted(space.anatomy), space.anatomy)


def test_ranks_go_where_they_bring_most() -> None:
    ranks = {"of": [1, 2, 4, 8, 16], "per": "layer"}
    lora = {**PLAIN, "r": ranks, "projections": "attention.query", "layers": "all"}
    space = space_of(3, methods={"lora": lora}, hybrids=[])
    names = [site.name for site in space.anatomy.sites if site.carries({"attention.query"})]
    first, second, third = names
    values = {first: (0.1,), second: (0.1, 0.05), third: tuple([0.1] * 16)}
    one = allocate(space, tally_of(space), by_rank(values), 20 * 32, seed=0)
    assert one is not None
    assert one.parts[0]["r"] in ((1, 2, 16), (2, 2, 16))
    assert tally_of(space)(one) <= 20 * 32


def test_places_with_large_gradients_are_taken_first() -> None:
    lora = {**PLAIN, "r": [8], "projections": ["attention", "mlp"], "layers": ["top:1", "all"]}
    space = space_of(3, methods={"lora": lora, "ia3": {}}, hybrids=["lora + ia3"])
    values = {site.name: (float(site.carries({"mlp.up", "mlp.down"})),) for site in space.anatomy.sites}
    one = allocate(space, tally_of(space), by_position(values), 10**9, seed=0)
    assert one is not None
    assert one.method == "lora"
    assert str(one.parts[0].placement) == "mlp"


def test_what_makes_no_difference_is_at_its_default() -> None:
    space = space_of(3, methods={"lora": {}}, hybrids=[])
    values = {site.name: (1.0, 0.5) for site in space.anatomy.sites if site.carries({"attention.key"})}
    one = allocate(space, tally_of(space), by_rank(values), 10**9, seed=1)
    assert one is not None
    part = one.parts[0]
    assert (part["r"], part["alpha"], part["use_rslora"], part["use_dora"]) == (8, 16, False, False)
    assert one.recipe.learning_rates == (2e-3,)


def test_less_room_gives_a_smaller_one_and_no_room_none() -> None:
    space = space_of(3, methods={"lora": {}}, hybrids=[])
    tally, values = tally_of(space), {site.name: (1.0, 0.5, 0.25) for site in space.anatomy.sites}
    found = [allocate(space, tally, by_rank(values), most, seed=0) for most in (10**6, 500, 0)]
    sizes = [tally(one) for one in found if one is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert found[2] is None
    assert all(size <= most for size, most in zip(sizes, (10**6, 500), strict=False))
    assert allocate(space, tally, by_rank(values), 10**6, seed=0) == found[0]


def test_a_space_without_lora_has_none() -> None:
    space = space_of(3, methods={"ia3": {}}, hybrids=[])
    assert allocate(space, tally_of(space), by_rank({}), 10**9, seed=0) is None


@pytest.mark.parametrize(("given", "worth"), [(0, 0.0), (1, 3.0), (2, 4.0), (64, 4.0)])
def test_a_rank_beyond_what_was_looked_at_brings_nothing(given: int, worth: float) -> None:
    assert by_rank({"a": (3.0, 1.0)})("a", given) == worth
    assert by_rank({"a": (3.0, 1.0)})("b", given) == 0.0
    assert by_position({"a": (3.0, 1.0)}, rank=4)("a", given) == pytest.approx(4.0 * min(given, 4) / 4)
