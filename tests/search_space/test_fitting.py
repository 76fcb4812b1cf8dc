"""Candidates within a budget: every one fits, none comes twice, and a budget that nothing fits is refused."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import EmptySpaceError
from search_space.fitting import Fitting, require_fitting
from search_space.knobs import RandomChooser
from search_space.notation import parse
from search_space.space import Space, bind
from search_space.spec import SpaceSpec, presets
from search_space.tally import Tally
from tests.search_space.choosers import Recorded, Replayed
from tests.search_space.counted import Counted
from tests.search_space.test_space import space_of, tiny_anatomy

ANATOMY = tiny_anatomy(12)
SPACES = {name: bind(SpaceSpec(preset=name), ANATOMY) for name in presets()}
TALLY = Tally(Counted(ANATOMY), ANATOMY)


def least(space: Space) -> int:
    """Return the budget that the refusal of an impossible one names."""
    with pytest.raises(EmptySpaceError, match=r"the smallest is .* Raise the budget to [\d,]+") as refused:
        require_fitting(space, TALLY, 0)
    return int(str(refused.value).partition("Raise the budget to ")[2].partition(", or")[0].replace(",", ""))


@pytest.mark.parametrize("name", list(presets()))
def test_every_candidate_is_in_budget_and_in_the_space_and_comes_once(name: str) -> None:
    space = SPACES[name]
    limit = 100 * least(space)
    fitting, taken = Fitting(space, TALLY, limit, seed=1), set[str]()
    for _ in range(40):
        candidate = fitting.draw(taken)
        if candidate is None:
            break
        assert TALLY(candidate) == Counted(ANATOMY)(candidate) <= limit
        assert candidate.sha256 not in taken
        assert space.draw(Replayed(space.encode(candidate))) == candidate
        taken.add(candidate.sha256)
    assert len(taken) >= 5


@pytest.mark.parametrize("name", list(presets()))
def test_the_budget_that_is_suggested_admits_a_candidate_and_one_less_does_not(name: str) -> None:
    admitted = least(SPACES[name])
    require_fitting(SPACES[name], TALLY, admitted)
    with pytest.raises(EmptySpaceError):
        require_fitting(SPACES[name], TALLY, admitted - 1)


@given(st.sampled_from(sorted(presets())), st.integers(0, 2**32), st.floats(1, 50))
@settings(max_examples=60, deadline=None)
def test_a_draw_is_brought_down_to_the_budget(name: str, seed: int, times: float) -> None:
    """What fits is left alone; of what does not, everything but sizes and missing parts is kept where that can be."""
    space = SPACES[name]
    drawn = space.draw(RandomChooser(seed))
    least_of_it = min(TALLY(space.draw(Recorded(Random(one)))) for one in range(3))
    limit = max(times * 2000, least_of_it)
    near = Fitting(space, TALLY, limit, seed).near(drawn)
    if near is None:
        return
    assert TALLY(near) <= limit
    assert space.draw(Replayed(space.encode(near))) == near
    assert (near == drawn) == (TALLY(drawn) <= limit)


def test_only_the_size_is_changed_where_a_size_is_too_much() -> None:
    space = space_of(4, methods={"lora": {}}, hybrids=[])
    tally = Tally(Counted(tiny_anatomy(4)), tiny_anatomy(4))
    wanted = parse("lora(r=64,alpha=32,use_dora=true)@attention[top:2] | lr=0.001")
    limit = tally(parse("lora(r=4,use_dora=true)@attention[top:2]"))
    seen = {Fitting(space, tally, limit, seed).near(wanted) for seed in range(40)}
    parts = {one.parts[0] for one in seen if one is not None}
    assert {part["r"] for part in parts} == {1, 2, 4}
    assert {(part["alpha"], part["use_dora"], str(part.placement)) for part in parts} == {
        (32, True, "attention[top:2]")
    }


def test_a_space_is_drawn_to_its_end_and_no_further() -> None:
    given = {"r": [1, 2, 4], "alpha": 8, "use_rslora": False, "use_dora": False, "layers": ["all", "top:1"]}
    lora = {**given, "projections": "mlp.up", "learning_rate": 1e-3}
    space, anatomy = space_of(3, methods={"lora": lora}, hybrids=[]), tiny_anatomy(3)
    tally = Tally(Counted(anatomy), anatomy)
    fitting, taken = Fitting(space, tally, tally(parse("lora(r=2)@mlp.up")), seed=0), set[str]()
    while (candidate := fitting.draw(taken)) is not None:
        taken.add(candidate.sha256)
    assert len(taken) == 5  # r = 4 fits the last layer alone


def test_without_a_budget_nothing_is_counted() -> None:
    anatomy = tiny_anatomy(3)
    tally = Tally(Counted(anatomy), anatomy)
    fitting, drawn = Fitting(space_of(3, methods=["ia3"], hybrids=[]), tally, None, seed=0), parse("ia3")
    assert fitting.near(drawn) == drawn
    assert fitting.near(drawn, {drawn.sha256}) not in (None, drawn)
    assert tally.asked == 0


def test_a_space_of_which_the_model_carries_nothing_is_refused() -> None:
    anatomy = tiny_anatomy(3)
    space = space_of(3, methods=["lora"], hybrids=[])
    with pytest.raises(EmptySpaceError, match="the model can carry no candidate of it"):
        require_fitting(space, Tally(Counted(anatomy, refused="lora"), anatomy), 1e9)


def test_the_refusal_names_the_smallest_and_what_admits_it() -> None:
    space = space_of(3, methods={"lora": {"r": [4, 8], "layers": ["top:2", "all"]}}, hybrids=[])
    anatomy = tiny_anatomy(3)
    with pytest.raises(
        EmptySpaceError, match=r"at most 100 .* the smallest is lora\(r=4\)@.*\[top:2\] with [\d,]+\. Rai"
    ):
        require_fitting(space, Tally(Counted(anatomy), anatomy), 100)
