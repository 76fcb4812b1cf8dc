"""Metrics, scores and costs: units and splits stand beside every value, and nothing is silently not finite."""

from __future__ import annotations

import json
import math

import pytest

from evaluators.score import METRICS, Cost, Score, metric
from search_space.errors import EvaluationError

SCORE = Score({"accuracy": 0.9, "nll": 0.3, "latency_ms": 2.5}, 30, 1 / 3, "validation", 7)


def test_a_score_reads_back_equal() -> None:
    assert Score.from_json(json.loads(json.dumps(SCORE.to_json()))) == SCORE


def test_the_error_of_a_value_stands_beside_it_and_reads_back() -> None:
    score = Score({"accuracy": 0.9, "nll": 0.3}, 30, 1 / 3, "validation", 7, {"accuracy": 0.02})
    data = score.to_json()["metrics"]
    assert data["accuracy"]["standard_error"] == 0.02
    assert "standard_error" not in data["nll"]
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_every_value_has_its_unit_and_quality_its_split() -> None:
    metrics = SCORE.to_json()["metrics"]
    assert metrics["accuracy"] == {"value": 0.9, "unit": "1", "split": "validation"}
    assert metrics["latency_ms"] == {"value": 2.5, "unit": "ms", "split": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_a_divergence(value: float) -> None:
    with pytest.raises(EvaluationError, match="'nll' not finite at step 3") as raised:
        Score({"accuracy": 0.5, "nll": value}, 3, 0.1, "validation", 0)
    assert raised.value.cause == "diverged"


def test_only_whole_training_is_full() -> None:
    assert not SCORE.full
    assert Score({}, 90, 1.0, "validation", 0).full


def test_another_schema_version_is_refused() -> None:
    with pytest.raises(ValueError, match="score: schema_version 2 is not 1"):
        Score.from_json(SCORE.to_json() | {"schema_version": 2})


@pytest.mark.parametrize("one", METRICS.values(), ids=str)
def test_a_metric_describes_itself(one) -> None:
    assert one.direction in ("maximize", "minimize")
    assert one.unit in ("1", "nat", "parameters", "B", "ms", "FLOP", "s", "J")
    assert one.text
    assert one.short
    assert one.name.endswith(
        {"B": "_bytes", "ms": "_ms", "parameters": "_params", "FLOP": "_flops", "s": "_seconds", "J": "_joules"}.get(
            one.unit, ""
        )
    )


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    assert metric("accuracy") is METRICS["accuracy"]
    with pytest.raises(ValueError, match=r"there is no metric 'acuracy'; allowed: .* \(did you mean 'accuracy'\?\)"):
        metric("acuracy")


@pytest.mark.parametrize("cost", [Cost(100, 10, 2**20), Cost(100, 10), Cost(0, 0, 0)])
def test_a_cost_reads_back_equal(cost: Cost) -> None:
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_what_is_unknown_is_left_out_of_a_cost() -> None:
    assert Cost(100, 10).values == {"trainable_params": 100.0, "head_params": 10.0}
