"""The benchmark of the space: both ways draw within the budget, and the table says what was refused."""

from __future__ import annotations

from benchmarks.space import PARTS, Rejecting, _drawn, costing_markdown, sampling_markdown
from search_space.space import bind
from search_space.spec import SpaceSpec
from search_space.tally import Tally
from tests.search_space.counted import Counted
from tests.search_space.test_space import tiny_anatomy

ANATOMY = tiny_anatomy(4)
SPACE = bind(SpaceSpec(preset="default"), ANATOMY)
TALLY = Tally(Counted(ANATOMY), ANATOMY)


def test_rejecting_finds_what_fits_and_stops_after_many_draws() -> None:
    taken: set[str] = set()
    assert Rejecting(SPACE, TALLY, 5_000, 0).some(10, taken) == len(taken) == 10
    nothing = Rejecting(SPACE, TALLY, 0, 0)
    assert nothing.some(1, set()) == 0
    assert nothing.drawn == 2000


def test_both_ways_are_measured_and_told() -> None:
    row = {"preset": "default", "share": 0.01} | _drawn(SPACE, TALLY, 5_000, rounds=2, each=5)
    refused = {"preset": "lonas", "share": 0.001} | _drawn(SPACE, TALLY, 0, rounds=2, each=5)
    assert row["per_second"] > 0
    assert 0 < row["fits"] <= 1
    text = sampling_markdown({"rounds": 2, "each": 5, "rows": [row, refused]})
    assert "| `default` | 1.0% |" in text
    assert "| `lonas` | 0.1% | 0 | refused before the first draw |" in text


def test_costing_is_a_part_and_says_whether_it_is_fast_enough() -> None:
    assert set(PARTS) == {"sampling", "costing"}
    rows = [
        {"preset": "lora", "first": 1.0, "then": 0.5, "built": 5},
        {"preset": "everything", "first": 9.0, "then": 1.9, "built": 300},
    ]
    text = costing_markdown({"first": 100, "then": 500, "rows": rows})
    assert "| `lora` | 1.00 | 0.50 | 5 | met |" in text
    assert "| `everything` | 9.00 | 1.90 | 300 | missed |" in text
