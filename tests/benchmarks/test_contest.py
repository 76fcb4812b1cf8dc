"""The contest on a made-up table: every search keeps the rules, and the measures say what they mean."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contest.arena import Arena, Finished
from benchmarks.contest.journal import Entry, read, write
from benchmarks.contest.measures import course_of, interval, steps_to
from benchmarks.contest.searches import SEARCHES
from tests.orchestrator.tables import RUNGS, space_of, spec_of, table_of

NEEDS = {"Syne Tune MOASHA": "syne_tune", "AutoPEFT": "botorch"}
STEPS = 16 * RUNGS[-1]


@pytest.fixture(scope="module")
def arena() -> Arena:
    return Arena("made-up", table_of(50), space_of(spec_of()), classes=2, limit=50_000)


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow) if one == "AutoPEFT" else one for one in SEARCHES]
)
def test_every_search_keeps_the_rules(arena: Arena, name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed: pip install paretune[bench]")
    found = SEARCHES[name](arena, STEPS, 0)
    assert [(one.at, one.row.key) for one in found] == [
        (one.at, one.row.key) for one in SEARCHES[name](arena, STEPS, 0)
    ]
    assert len({one.row.key for one in found}) == len(found) > 0
    assert all(one.at <= STEPS for one in found)
    assert [one.at for one in found] == sorted(one.at for one in found)
    assert all(late.at - early.at >= RUNGS[-1] for early, late in pairwise(found))


def test_the_whole_table_is_one(arena: Arena) -> None:
    everything = [Finished(RUNGS[-1], row) for row in arena.rows]
    course = course_of(arena, everything, len(everything) * RUNGS[-1])
    assert course.volumes == pytest.approx(np.ones(20))
    assert course.test_volume == pytest.approx(1.0)
    assert course.regrets == pytest.approx([0.0] * 3)


def test_the_hypervolume_grows_as_candidates_are_trained(arena: Arena) -> None:
    found = [Finished((at + 1) * RUNGS[-1], row) for at, row in enumerate(arena.rows[:20])]
    volumes = course_of(arena, found, 20 * RUNGS[-1]).volumes
    assert (np.diff(volumes) >= 0).all()
    reached = steps_to(arena, found, float(volumes[9]), 20 * RUNGS[-1])
    assert reached <= 10 * RUNGS[-1]
    assert steps_to(arena, found, 1.5, 20 * RUNGS[-1]) == float("inf")


def test_intervals_hold_the_value() -> None:
    value, low, high = interval([1.0, 2.0, 3.0, float("inf")], "median")
    assert low <= value <= high
    assert interval([0.5] * 5) == (0.5, 0.5, 0.5)


def test_the_journal_leaves_out_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    entries = [Entry("trec", "ab", "random", seed, 900, ((90, "x"), (180, "y"))) for seed in range(2)]
    for one in entries:
        write(one, path)
    path.write_text(path.read_text()[:-20])
    assert read(path) == entries[:1]
    write(entries[1], path)
    assert read(path) == entries
