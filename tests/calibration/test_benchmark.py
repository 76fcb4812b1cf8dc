"""The benchmark of the solver: its result, its page, and that its goals are reached."""

from __future__ import annotations

import json

import pytest

from benchmarks import calibration as benchmark


@pytest.fixture(scope="module")
def result():
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    return benchmark.run(quick=True)


def test_the_goals_on_excess_and_flags_are_reached(result) -> None:
    assert result["reached"]["excess_nll"]
    assert result["reached"]["flags"]
    assert len(result["cases"]) == 12


def test_the_common_snippet_stops_short(result) -> None:
    by_case = {row["case"]: row["excess_nll"]["LBFGS snippet"] for row in result["cases"]}
    assert by_case["T = 10"] > 0.5
    assert by_case["T = 30"] > 3.0


def test_the_result_is_json_and_a_page(result) -> None:
    json.dumps(result, allow_nan=False)
    page = benchmark.markdown(result)
    assert all(row["case"] in page for row in result["cases"])
    assert "scikit-learn" in page
