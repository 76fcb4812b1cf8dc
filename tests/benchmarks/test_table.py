"""The table of trained candidates: whole, and still in the space as the code grows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.json_lines import append
from benchmarks.table.tasks import COUNTS, NOISE, RUNGS, candidates_path, space_of, table_path
from benchmarks.table.training import planned
from evaluators.tabulated import Table
from search_space.errors import DataError

TRAINED = [task for task in COUNTS if table_path(task).exists()]


@pytest.mark.parametrize("task", COUNTS)
def test_every_candidate_can_still_be_drawn_from_its_space(task: str) -> None:
    table = Table.read(candidates_path(task))
    space = space_of(table.header)
    for row in table.main():
        space.encode(row.candidate)
    assert len(table.main()) == COUNTS[task]
    assert table.header.rungs == RUNGS


@pytest.mark.parametrize("task", COUNTS)
def test_every_candidate_is_within_its_budget(task: str) -> None:
    table = Table.read(candidates_path(task))
    limit = 0.05 * table.header.provenance["backbone_parameters"]
    assert all(0 <= row.cost.trainable_params <= limit for row in table.main())


@pytest.mark.parametrize("task", TRAINED)
def test_what_was_trained_is_what_was_drawn_with_every_metric_at_every_rung(task: str) -> None:
    table = Table.read(table_path(task))
    wanted = {row.key for row in planned(task)}
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


def test_the_noise_is_that_of_the_first_that_were_drawn() -> None:
    rows = planned("trec")
    assert len(rows) == COUNTS["trec"] + 4 * NOISE["trec"]
    assert {row.candidate for row in rows if row.seed} == {row.candidate for row in rows[: NOISE["trec"]]}


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
