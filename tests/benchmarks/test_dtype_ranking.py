"""The benchmark of bfloat16: forty candidates at least, and figures that are right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.dtype_ranking import COUNT, TASK, in_bfloat16, markdown, summary
from benchmarks.table.tasks import candidates_path
from evaluators.tabulated import Table
from tests.orchestrator.tables import table_of


def rows(values: list[float]) -> dict[str, dict[str, float]]:
    return {str(number): {"accuracy": value, "calibrated_nll": -value} for number, value in enumerate(values)}


def test_it_ranks_forty_different_candidates_or_more() -> None:
    assert COUNT >= 40
    assert len({row.candidate.sha256 for row in Table.read(candidates_path(TASK)).of("wide").main()[:COUNT]}) == COUNT


def test_equal_rankings_correlate_wholly() -> None:
    found = summary(rows([0.1, 0.2, 0.3, 0.4]), rows([0.11, 0.21, 0.31, 0.41]))
    assert found["candidates"] == 4
    assert found["metrics"]["accuracy"]["correlation"] == pytest.approx(1.0)
    assert found["metrics"]["accuracy"]["difference"] == pytest.approx(0.01)
    assert "1.000" in markdown(found)


def test_what_failed_in_one_type_is_told_and_left_out() -> None:
    measured = rows([0.4, 0.3, 0.2, 0.1])
    measured["3"] = {"error": "diverged"}  # type: ignore[dict-item]
    found = summary(rows([0.1, 0.2, 0.3, 0.4]), measured)
    assert found["failed"] == ["3"]
    assert found["metrics"]["accuracy"]["correlation"] == pytest.approx(-1.0)


def test_what_the_table_holds_at_the_last_rung_is_compared() -> None:
    table = table_of(5)
    table = replace(table, header=replace(table.header, quality=("accuracy", "calibrated_nll")))
    row = replace(table.main()[0], validation=((0.1, 0.9), (0.8, 0.3)))
    assert in_bfloat16(table, [row]) == {row.candidate.sha256: {"accuracy": 0.8, "calibrated_nll": 0.3}}
