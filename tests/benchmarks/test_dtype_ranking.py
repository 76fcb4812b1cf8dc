"""The benchmark of bfloat16: forty candidates at least, and figures that are right."""

from __future__ import annotations

import pytest

from benchmarks.dtype_ranking import COUNT, candidates, markdown, summary


def rows(values: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {
        f"{dtype}/{number}": {"accuracy": pair[side], "calibrated_nll": -pair[side]}
        for number, pair in enumerate(values)
        for side, dtype in enumerate(("float32", "bfloat16"))
    }


def test_it_ranks_forty_different_candidates_or_more() -> None:
    assert COUNT >= 40
    assert len({one.sha256 for one in candidates(COUNT)}) == COUNT


def test_equal_rankings_correlate_wholly() -> None:
    found = summary(rows([(0.1, 0.11), (0.2, 0.21), (0.3, 0.31), (0.4, 0.41)]))
    assert found["candidates"] == 4
    assert found["metrics"]["accuracy"]["correlation"] == pytest.approx(1.0)
    assert found["metrics"]["accuracy"]["difference"] == pytest.approx(0.01)
    assert "1.000" in markdown(found)


def test_what_failed_in_one_type_is_told_and_left_out() -> None:
    measured = rows([(0.1, 0.4), (0.2, 0.3), (0.3, 0.2), (0.4, 0.1)])
    measured["bfloat16/3"] = {"error": "diverged"}  # type: ignore[dict-item]
    found = summary(measured)
    assert found["failed"] == ["3"]
    assert found["metrics"]["accuracy"]["correlation"] == pytest.approx(-1.0)
