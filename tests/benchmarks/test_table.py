"""The table of trained candidates: whole, and still in the space as the code grows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.json_lines import append
from benchmarks.table import drawing, plan, training
from benchmarks.table.baselines import BASELINES, TRIES, baselines, name_of
from benchmarks.table.drawing import draw
from benchmarks.table.plan import SEEDS, STAGES, Stage
from benchmarks.table.tasks import COUNTS, OWN_COUNTS, RUNGS, candidates_path, space_of, spec_of, table_path
from benchmarks.table.training import _begun
from evaluators.tabulated import Table
from search_space.errors import DataError

TRAINED = [task for task in COUNTS if table_path(task).exists()]


ORIGINS = [(task, origin) for task in COUNTS for origin in ("wide", *OWN_COUNTS[task])]


@pytest.mark.parametrize(("task", "origin"), ORIGINS)
def test_every_candidate_can_still_be_drawn_from_its_space(task: str, origin: str) -> None:
    table = Table.read(candidates_path(task))
    space = space_of(table.header, origin)
    rows = table.of(origin).main()
    for row in rows:
        space.encode(row.candidate)
    assert len(rows) == (COUNTS[task] if origin == "wide" else OWN_COUNTS[task][origin])
    assert table.header.rungs == RUNGS


@pytest.mark.parametrize(("task", "origin"), ORIGINS)
def test_every_drawn_candidate_is_within_its_budget(task: str, origin: str) -> None:
    table = Table.read(candidates_path(task))
    limit = 0.05 * table.header.provenance["backbone_parameters"]
    assert all(0 <= row.cost.trainable_params <= limit for row in table.of(origin).main())


@pytest.mark.parametrize("task", COUNTS)
def test_every_baseline_has_as_many_tries_and_is_no_member_of_the_spaces(task: str) -> None:
    table = Table.read(candidates_path(task))
    rows = table.of("baseline").main()
    assert {row.candidate for row in rows} == {candidate for _, candidate in baselines()}
    assert [name_of(row.candidate) for row in rows] == [name for name in BASELINES for _ in range(TRIES)]
    assert sum(len(table.of(origin).rows) for origin in ("wide", "baseline", "transfer", *OWN_COUNTS[task])) == len(
        table.rows
    )
    assert {"full fine-tuning"} == {name_of(row.candidate) for row in rows if row.cost.trainable_params > 1_135_660}


def test_the_tries_of_a_baseline_span_the_range_that_is_searched() -> None:
    rates = [one.recipe.learning_rates for name, one in baselines() if name == "MAM"]
    assert rates[0] == (3e-3, 2e-4)
    assert rates[-1] == (6e-2, 5e-3)
    assert [one.recipe.learning_rates for name, one in baselines() if name == "LoRA r8"][2] == (2e-3,)
    heads = [one.recipe.head_learning_rate for name, one in baselines() if name == "head only"]
    assert heads == [0.001, 0.00316, 0.01, 0.0316, 0.1]


@pytest.mark.parametrize("task", COUNTS)
def test_nothing_that_is_there_is_drawn_again(task: str) -> None:
    before = candidates_path(task).read_bytes()
    assert draw(task) == 0
    assert candidates_path(task).read_bytes() == before


@pytest.mark.parametrize("task", TRAINED)
def test_what_was_trained_is_what_was_drawn_with_every_metric_at_every_rung(task: str) -> None:
    table = Table.read(table_path(task))
    wanted = {row.key for stage in STAGES if stage.task == task for row in stage.rows()}
    for row in table.rows.values():
        assert row.key in wanted
        if row.cause:
            continue
        for split in (row.validation, row.test):
            assert [len(one) for one in split] == [len(table.header.quality)] * len(RUNGS)
            assert all(math.isfinite(value) for one in split for value in one)
            assert all(0 <= one[table.header.quality.index("accuracy")] <= 1 for one in split)
        assert table.score(row, len(RUNGS) - 1, "test").full
        assert row.measured["checkpoint_bytes"] > 0


def test_the_wide_space_of_trec_is_trained_first_and_the_noise_of_the_first_that_were_drawn_last() -> None:
    order = [(row.origin, row.seed > 0) for stage in STAGES for row in stage.rows()]
    assert order[: COUNTS["trec"]] == [("wide", False)] * COUNTS["trec"]
    first = {row.candidate for row in STAGES[0].rows()[:30]}
    noise = Stage("trec", "wide", SEEDS, most=30).rows()
    assert {row.candidate for row in noise} == first
    assert sorted({row.seed for row in noise}) == [1, 2, 3, 4]
    assert [one for one in order if one[0] != "transfer"][-len(noise) - 40 :] == [("wide", True)] * (len(noise) + 40)


def test_the_front_of_one_task_is_drawn_for_the_other_once_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {task: tmp_path / f"{task}.jsonl" for task in COUNTS}
    for module in (plan, drawing):
        monkeypatch.setattr(module, "table_path", files.__getitem__)
    assert not list(drawing._carried_over("trec", {}))
    rows = STAGES[3].rows()
    front = {rows[0].candidate: 0.9, min(rows, key=lambda row: row.cost.trainable_params).candidate: 0.5}
    trained = [replace(row, validation=((front.get(row.candidate, 0.4),),)) for row in rows]
    lines = [Table.read(candidates_path("movie")).header.to_json(), *(row.to_json() for row in trained)]
    files["movie"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list(drawing._carried_over("trec", {}))
    assert {row.candidate for row in found} == set(front)
    assert {row.origin for row in found} == {"transfer"}
    assert not list(drawing._carried_over("trec", {row.candidate.sha256: row for row in found}))


def test_what_is_there_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "table_path", lambda _task: tmp_path / "trec.jsonl")
    stage = STAGES[0]
    assert stage.left() == stage.rows()
    lines = candidates_path("trec").read_text().splitlines()
    (tmp_path / "trec.jsonl").write_text("\n".join(lines[:3]) + "\n")
    assert stage.left() == stage.rows()[2:]


def test_a_table_that_was_trained_in_another_way_is_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "table_path", lambda _task: tmp_path / "trec.jsonl")
    header = _begun("trec")
    assert header.spec["training"] == spec_of("trec").to_json()["training"]
    assert header.spec["space"] == Table.read(candidates_path("trec")).header.spec["space"]
    assert _begun("trec") == header
    old = {name: value for name, value in header.spec["training"].items() if name != "prefix_cache"}
    searched = {**header.spec["search"], "sampler": "tpe"}
    before = json.dumps({**header.to_json(), "spec": {**header.spec, "training": old, "search": searched}})
    (tmp_path / "trec.jsonl").write_text(before + "\n")
    assert _begun("trec") == header
    other = json.dumps({**header.to_json(), "spec": {**header.spec, "training": {"steps": 5}}})
    (tmp_path / "trec.jsonl").write_text(other + "\n")
    with pytest.raises(DataError, match="was trained with another 'training'; move it away"):
        _begun("trec")


@pytest.mark.parametrize("task", COUNTS)
def test_the_tables_that_are_here_can_be_gone_on_with(task: str) -> None:
    before = table_path(task).read_bytes()
    _begun(task)
    assert table_path(task).read_bytes() == before


def test_a_line_that_was_cut_off_is_trained_again_and_nothing_else_is_lost(tmp_path: Path) -> None:
    path, lines = tmp_path / "table.jsonl", candidates_path("trec").read_text().splitlines()[:4]
    path.write_text("\n".join(lines)[:-40])
    assert len(Table.read(path).rows) == 2
    append(path, lines[3])
    assert json.loads(path.read_text().splitlines()[-1]) == json.loads(lines[3])
    assert len(Table.read(path).rows) == 3


def test_another_file_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"kind": "something else"}\n')
    with pytest.raises(DataError, match="expected a paretune search table"):
        Table.read(path)
    with pytest.raises(DataError, match="cannot be read"):
        Table.read(tmp_path / "missing.jsonl")
