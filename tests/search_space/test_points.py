"""Points: a draw is answered by the nearest point that is free."""

from __future__ import annotations

from evaluators.synthetic import SyntheticCoster
from search_space.knobs import RandomChooser
from search_space.notation import parse
from search_space.points import Points
from search_space.space import bind
from search_space.spec import SpaceSpec

SPACE = bind(SpaceSpec(methods={"lora": {}, "ia3": {}}, hybrids=("lora + ia3",)), SyntheticCoster().anatomy)  # type: ignore[arg-type]
NEAR = parse("lora(r=8) | lr=0.002")
FAR = parse("lora(r=64) | lr=0.002")
RATE = parse("lora(r=8) | lr=0.008")
OTHER = parse("ia3")
POINTS = Points(SPACE, [FAR, RATE, NEAR, OTHER])


def test_a_point_is_its_own_nearest() -> None:
    assert all(POINTS.nearest(one, ()) == one for one in POINTS.candidates)


def test_sizes_and_rates_count_by_their_range() -> None:
    assert POINTS.nearest(parse("lora(r=4) | lr=0.002"), ()) == NEAR
    assert POINTS.nearest(parse("lora(r=32) | lr=0.002"), ()) == FAR
    assert POINTS.nearest(parse("lora(r=8) | lr=0.007"), ()) == RATE


def test_what_is_taken_is_passed_over_and_methods_count_most() -> None:
    assert POINTS.nearest(NEAR, {NEAR.sha256, RATE.sha256}) == FAR
    assert POINTS.nearest(NEAR, {NEAR.sha256, RATE.sha256, FAR.sha256}) == OTHER
    assert POINTS.nearest(parse("lora + ia3 | lr=0.002/0.01"), {OTHER.sha256}) == NEAR
    assert POINTS.nearest(NEAR, {one.sha256 for one in POINTS.candidates}) is None


def test_points_that_are_as_near_are_taken_by_lot() -> None:
    """Not always the same one first: draws without a point of their methods spread over the table."""
    chooser = RandomChooser(0)
    drawn = [one for one in (SPACE.draw(chooser) for _ in range(60)) if one.method == "ia3"]
    far = Points(SPACE, [NEAR, FAR, RATE])
    assert len({far.nearest(one, ()) for one in drawn}) == 3
