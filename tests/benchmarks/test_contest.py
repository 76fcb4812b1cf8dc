"""The contest on a made-up table: every search keeps the rules, and the measures say what they mean."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contest import budget, fixed, report, transfer
from benchmarks.contest.arena import DIRECTIONS, Arena, Finished
from benchmarks.contest.contests import Contest, contests
from benchmarks.contest.informed import in_order_of_test
from benchmarks.contest.journal import Entry, digest, read, write
from benchmarks.contest.measures import course_of, interval, reached, said, said_share, spread, steps_to
from benchmarks.contest.searches import BASELINE, BOUND, OURS, RIVAL, SEARCHES, UNDER_BUDGET
from benchmarks.table.baselines import BASELINES, baselines
from evaluators.score import Cost
from evaluators.tabulated import Row, Table
from orchestrator.dominance import non_dominated
from search_space.candidate import Candidate
from tests.orchestrator.tables import RUNGS, space_of, spec_of, table_of

NEEDS = {"Syne Tune MOASHA": "syne_tune", "AutoPEFT": "botorch"}
STEPS = 16 * RUNGS[-1]


@pytest.fixture(scope="module")
def arena() -> Arena:
    return Arena("made-up", table_of(50), space_of(spec_of()), classes=2, limit=50_000)


@pytest.mark.filterwarnings("ignore:Define-by-run function:UserWarning")  # on a busy machine
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
    assert all(one.at >= many * RUNGS[-1] for many, one in enumerate(found, start=1))
    apart = RUNGS[-1] - RUNGS[-2] if name == OURS else RUNGS[-1]
    assert all(late.at - early.at >= apart for early, late in pairwise(found))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("budget", "forest"),
        ("budget", "forest, early stopping"),
        pytest.param("front", "forest, early stopping", marks=pytest.mark.slow),
    ],
)
def test_the_default_search_finds_what_is_in_the_journal(kind: str, name: str) -> None:
    """No limit there is on what is measured only, and next to nothing fails: neither may change what is proposed."""
    contest = next(one for one in contests("movie") if one.kind == kind)
    known = {entry.key: entry for entry in read()}
    entry = known[contest.arena.name, digest(contest.arena), name, 0, contest.steps]
    found = contest.searches[name](contest.arena, contest.steps, 0)
    assert tuple((one.at, one.row.candidate.sha256) for one in found) == tuple(map(tuple, entry.found))


def test_who_knows_how_all_others_end_is_sooner_than_chance(arena: Arena) -> None:
    courses = [
        [course_of(arena, SEARCHES[name](arena, STEPS, seed), STEPS).volumes.mean() for seed in range(4)]
        for name in (BOUND, BASELINE)
    ]
    assert np.mean(courses[0]) > np.mean(courses[1])


def test_in_order_of_test_all_come_once_and_its_front_first(arena: Arena) -> None:
    ordered, trained = list(in_order_of_test(arena)), [row for row in arena.rows if not row.cause]
    assert sorted(row.key for row in ordered) == sorted(row.key for row in trained)
    values = arena.values(trained, "test")
    inside = (values[:, 0] > 1 / arena.classes) & (values[:, 1] < np.log10(arena.limit))
    front = {tuple(one) for one in values[non_dominated(values, DIRECTIONS) & inside]}
    assert {tuple(one) for one in arena.values(ordered[: len(front)], "test")} == front


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
    there, never = steps_to(arena, found, [float(volumes[9]), 1.5], 20 * RUNGS[-1])
    assert there <= 10 * RUNGS[-1]
    assert never == float("inf")


def test_how_soon_a_search_is_where_others_end(arena: Arena) -> None:
    steps = 10 * RUNGS[-1]
    found = [Finished((at + 1) * RUNGS[-1], row) for at, row in enumerate(arena.rows[:10])]
    late = [replace(one, at=one.at + RUNGS[-1]) for one in found[:9]]
    others = {"same": [course_of(arena, found, steps)], "all": [course_of(arena, found[:0], steps)] * 2}
    others["all"] = [replace(one, volumes=one.volumes + 1.5) for one in others["all"]]
    told = reached(arena, [found, late], others, steps)
    same = told["same"].share
    assert same[1] <= same[0] <= same[2] <= 1 or told["same"].never
    assert (told["all"].share, told["all"].never) == ((2.0, 2.0, 2.0), 2)
    assert said_share(told["all"].share) == "never [never, never]"
    assert said_share(spread([0.4])) == "0.40 [-]"
    assert said(spread([0.4])) == "0.400 [-]"
    assert said(spread([0.4, 0.4])) == "0.400 [0.400, 0.400]"


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


@pytest.fixture(scope="module")
def under_budget(arena: Arena) -> Contest:
    small = arena.under(0.02)
    return Contest("budget", small, UNDER_BUDGET, RUNGS[-1] * (len(small.rows) // 2))


def test_under_a_budget_there_is_nothing_above_it(arena: Arena, under_budget: Contest) -> None:
    small = under_budget.arena
    assert small.limit == 20_000
    assert 0 < len(small.rows) < len(arena.rows)
    assert all(row.cost.trainable_params <= 20_000 for row in small.rows)
    found = UNDER_BUDGET["forest, early stopping"](small, under_budget.steps, 0)
    assert {one.row.key for one in found} <= {row.key for row in small.rows}


def test_the_best_under_a_budget_is_looked_at_early_and_at_the_end(under_budget: Contest) -> None:
    arena = under_budget.arena
    rows = sorted(arena.rows, key=lambda row: row.validation[-1][0])[: under_budget.steps // arena.full]
    rising = [Finished((at + 1) * arena.full, row) for at, row in enumerate(rows)]
    best_first = [Finished(one.at, row) for one, row in zip(rising, reversed(rows), strict=True)]
    data = budget.numbers(
        under_budget, {"random": [rising, rising], "forest, early stopping": [best_first, best_first]}
    )
    assert data["target"] == rows[-1].validation[-1][0]
    assert data["searches"]["random"]["needed"] == (len(rows),) * 3
    assert data["searches"]["forest, early stopping"]["needed"] == (1.0,) * 3
    assert data["searches"]["forest, early stopping"]["test_early_less_random_end"] == pytest.approx((0.0,) * 3)
    text = budget.section(0.02, data)
    assert "within" in text
    assert text.count("**reached**") == 1
    assert "**tied with** what random search picks at its end" in text
    swapped = budget.numbers(under_budget, {"random": [best_first] * 2, "forest, early stopping": [rising] * 2})
    assert "**not reached**" in budget.section(0.02, swapped)
    assert budget.trainings_to(arena, rising, 1.5) == float("inf")


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        ((5.0, 4.0, 7.0), "reached"),
        ((5.0, 4.0, 8.0), "reached in the median, not in its whole interval"),
        ((8.0, 6.0, 9.0), "not reached in the median, though in its interval"),
        ((9.0, 8.0, 14.0), "not reached"),
    ],
)
def test_a_goal_within_an_interval_is_neither_reached_nor_missed(needed: tuple[float, ...], said: str) -> None:
    assert budget._reached(needed, 7.0) == said


def test_luck_with_validation_bounds_every_search_under_a_budget(arena: Arena) -> None:
    def row(validation: float, test: float) -> Row:
        return replace(arena.rows[0], validation=((validation, 1.0),) * 3, test=((test, 1.0),) * 3, cause="")

    lucky = [row(0.95, 0.7), row(0.9, 0.9), row(0.8, 0.85), row(0.92, 0.8)]
    table = replace(arena.table, header=replace(arena.table.header, quality=("accuracy", "nll")))
    table = replace(table, rows={(str(at), 0): one for at, one in enumerate(lucky)})
    small = Arena("small", table, arena.space, arena.classes, arena.limit)
    assert budget.bound(small, 0.9) == (3, 1)
    assert budget.bound(small, 0.91) == (2, 3)
    assert budget.bound(small, 0.95) == (1, 4)


def _trained(candidate: Candidate, accuracy: float, origin: str = "baseline", seed: int = 0, params: int = 9000) -> Row:
    quality = ((accuracy, 1.0),) * 3
    return Row(candidate, seed, origin, Cost(params, 10), quality, quality)


def _with_baselines(arena: Arena, deviation: float | None) -> Table:
    rows = [
        _trained(one, 0.3 + at / 100, params=10**6 if name == "full fine-tuning" else 9000)
        for at, (name, one) in enumerate(baselines())
    ]
    seeds = []
    if deviation is not None:
        scale = deviation / np.std([-1, 0, 1], ddof=1)
        seeds = [
            _trained(row.candidate, level + scale * (seed - 2), "wide", seed)
            for row, level in zip(arena.rows[:8], (0.9, 0.8, 0.9, 0.8, *[0.2] * 4), strict=True)
            for seed in (1, 2, 3)
        ]
        arena_rows = dict(list(arena.table.rows.items())[8:])
    else:
        arena_rows = dict(arena.table.rows)
    return Table(arena.table.header, {**arena_rows, **{row.key: row for row in (*rows, *seeds)}})


def test_fixed_architectures_are_compared_in_deviations_of_the_seed(arena: Arena) -> None:
    whole = _with_baselines(arena, 0.02)
    assert fixed.seed_deviation(whole) == pytest.approx(0.02)
    found = [[Finished((at + 1) * arena.full, row) for at, row in enumerate(arena.rows)]] * 3
    data = fixed.numbers(arena, whole, found)
    assert isinstance(data, dict)
    assert data["effort"] == 40
    lora = data["baselines"]["LoRA r8"]
    assert (lora["rate"], round(lora["test"], 6)) == (8e-3, 0.34)
    small = [row for row in arena.rows[:40] if row.cost.trainable_params <= 9000]
    assert lora["searched"][0] == pytest.approx(max(row.test[-1][0] for row in small))
    whole_front = max(row.test[-1][0] for row in arena.rows[:40])
    assert data["baselines"]["full fine-tuning"]["searched"][0] == pytest.approx(whole_front)
    text = fixed.section(data, "forest")
    assert text.count("\n| ") == len(BASELINES) + 1
    assert f"{(whole_front - 0.69) / 0.02:+.1f}" in text
    assert "The best fixed one is head only" in text


@pytest.mark.parametrize(
    ("searched", "deviation", "verdict"),
    [
        ((0.9, 0.89, 0.91), None, "beats it"),
        ((0.9, 0.89, 0.91), 0.01, "beats it"),
        ((0.9, 0.89, 0.91), 0.05, "ties with it"),
        ((0.8, 0.78, 0.82), None, "ties with it"),
        ((0.7, 0.69, 0.71), 0.05, "ties with it"),
        ((0.7, 0.69, 0.71), 0.01, "loses to it"),
    ],
)
def test_who_is_better_is_said_beyond_what_seeds_do(searched: tuple, deviation: float | None, verdict: str) -> None:
    assert fixed._against({"test": 0.8, "searched": searched}, deviation) == verdict


def test_what_is_missing_for_a_comparison_is_said(arena: Arena) -> None:
    found = [[Finished((at + 1) * arena.full, row) for at, row in enumerate(arena.rows)]]
    message = fixed.numbers(arena, arena.table, found)
    assert isinstance(message, str)
    assert message.startswith("Not all baselines are trained yet: LoRA r8")
    assert "has not been run" in str(fixed.numbers(arena, _with_baselines(arena, None), []))
    alone = fixed.numbers(arena, _with_baselines(arena, None), found)
    assert isinstance(alone, dict)
    assert alone["deviation"] is None
    assert "the deviation of the seed is not known" in fixed.section(alone, "forest")
    other = Arena("other", table_of(50, seed=9), arena.space, 2, arena.limit)
    message = transfer.numbers(arena, other, other.table, found, 900)
    assert isinstance(message, str)
    assert "front 0 are trained on other" in message


def test_a_front_that_is_carried_over_stands_beside_a_native_search(arena: Arena) -> None:
    other = Arena("other", table_of(50, seed=9), arena.space, 2, arena.limit)
    front = arena.front(arena.rows)
    rows = {**other.table.rows, **{row.key: replace(row, origin="transfer") for row in front}}
    native = [[Finished((at + 1) * arena.full, row) for at, row in enumerate(other.rows)]] * 2
    data = transfer.numbers(arena, other, Table(other.table.header, rows), native, 50 * arena.full)
    assert isinstance(data, dict)
    assert data["native, whole budget"]["volume"] == pytest.approx((1.0,) * 3)
    assert data["native, as many trainings"]["volume"][0] <= 1.0
    assert data["carried"]["volume"][0] == pytest.approx(other.volume(front) / other.volume(other.rows))
    assert f"made-up's front, {len(front)} trainings" in transfer.section("made-up", "other", data)


def test_a_report_tells_every_contest_and_what_is_missing(
    arena: Arena, under_budget: Contest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Contest("front", arena, SEARCHES, STEPS)
    written: dict[str, str] = {}
    journal = tmp_path / "journal.jsonl"
    for one in (front, under_budget):
        for at, name in enumerate((BASELINE, OURS, RIVAL, BOUND)):
            rows = one.arena.rows[at : at + 12]
            found = tuple(((place + 1) * one.arena.full, row.candidate.sha256) for place, row in enumerate(rows))
            write(Entry(one.arena.name, digest(one.arena), name, 0, one.steps, found), journal)
    monkeypatch.setattr(report, "contests", lambda task: [front, under_budget] if task == "trec" else [])
    monkeypatch.setattr(report, "read", lambda: read(journal))
    monkeypatch.setattr(report, "PICTURES", tmp_path)
    monkeypatch.setattr(report, "table_path", lambda _task: _table_file(arena, tmp_path))
    monkeypatch.setattr(report, "write", lambda name, data, text: written.update({name: text}))
    report.report(["trec", "movie"])
    text = written["contest"]
    assert "### made-up\n" in text
    assert "| regret |" in text
    assert (
        "| where this one ends | hypervolume | forest, early stopping is there after | seeds that never are |" in text
    )
    assert re.search(r"\| random \| 0\.\d{3} \| (never|\d\.\d\d) \[-\] \| [01] \|", text)
    assert f"*{BOUND}* gets there in" in text
    assert re.search(r"in the order of what each adds on test .* is there after \d+ trainings", text)
    assert f"| {BOUND} | 0." not in text  # nobody has to be where it ends
    assert f"(*{BOUND}*) is there after" in text
    assert "### trec: the best under a budget" in text
    assert "**At most 2.0% of the parameters**" in text
    assert "Not all baselines are trained yet" in text
    assert (tmp_path / "contest-made-up.png").exists()


def _table_file(arena: Arena, folder: Path) -> Path:
    path = folder / "table.jsonl"
    lines = [arena.table.header.to_json(), *(row.to_json() for row in arena.rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
