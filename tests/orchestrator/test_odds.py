"""What speaks against a candidate: limits on what only training tells, and failures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from evaluators.score import Cost
from evaluators.synthetic import synthetic_params
from evaluators.tabulated import Table
from orchestrator.odds import Odds, excess, telling_failures
from orchestrator.simulation import simulate
from orchestrator.trial import Trial
from tests.orchestrator.made_up import make_trial
from tests.orchestrator.tables import space_of, spec_of, table_of

SEEDS = 3


@pytest.fixture(scope="module")
def table() -> Table:
    """Latency grows with the size, and accuracy does too: what is within a limit is what promises least."""
    table = table_of(200)
    rows = {
        key: replace(row, measured={**row.measured, "latency_ms": 1 + math.log10(synthetic_params(row.candidate))})
        for key, row in table.rows.items()
    }
    return Table(table.header, rows)


def latencies(table: Table) -> list[float]:
    return sorted(row.measured["latency_ms"] for row in table.main())


def searched(table: Table, sampler: str, seed: int, **given: object) -> list[Trial]:
    search = {"sampler": sampler, "seed": seed, "early_stopping": {"rungs": 1}}
    spec = spec_of(search=search, objectives=[{"maximize": "accuracy"}], budgets={"trials": 40, **given})
    return simulate(spec, space_of(spec), table).trials()


def mean(of: Callable[[int], float]) -> float:
    return float(np.mean([of(seed) for seed in range(SEEDS)]))


def test_a_limit_on_what_is_measured_is_learnt(table: Table) -> None:
    limit = latencies(table)[50]

    def kept(sampler: str, seed: int) -> float:
        trials = searched(table, sampler, seed, latency=f"{limit}ms")
        return float(np.mean([one.scores[-1]["latency_ms"] <= limit for one in trials[10:]]))

    assert mean(lambda seed: kept("forest", seed)) > mean(lambda seed: kept("random", seed)) + 0.2


def test_what_is_over_a_limit_is_not_to_be_beaten(table: Table) -> None:
    limit = latencies(table)[50]
    most = max(row.validation[-1][0] for row in table.main() if row.measured["latency_ms"] <= limit)

    def best(seed: int) -> float:
        trials = searched(table, "forest", seed, latency=f"{limit}ms")
        return max(one.scores[-1]["accuracy"] for one in trials if one.scores[-1]["latency_ms"] <= limit)

    assert mean(best) > most - 0.005


def test_where_nothing_is_within_the_limit_what_is_over_it_leads_there(table: Table) -> None:
    limit = latencies(table)[0] - 0.01

    def excess_of(sampler: str, seed: int) -> float:
        trials = searched(table, sampler, seed, latency=f"{limit}ms")
        return float(np.mean([one.scores[-1]["latency_ms"] for one in trials[10:]])) - limit

    assert mean(lambda seed: excess_of("forest", seed)) < 0.7 * mean(lambda seed: excess_of("random", seed))


def test_what_fails_is_avoided() -> None:
    table = table_of(200)
    lora = {
        row.candidate.sha256: "oom" for row in table.main() if any(one.method == "lora" for one in row.candidate.parts)
    }

    def failed(sampler: str, seed: int) -> float:
        search = {"sampler": sampler, "seed": seed, "early_stopping": {"rungs": 1}}
        spec = spec_of(search=search, objectives=[{"maximize": "accuracy"}], budgets={"trials": 40})
        trials = simulate(spec, space_of(spec), table, faults=lora).trials()  # type: ignore[arg-type]
        return sum(one.state == "failed" for one in trials[10:])

    assert mean(lambda seed: failed("forest", seed)) < 0.5 * mean(lambda seed: failed("random", seed))


def test_one_failure_teaches_nothing_and_neither_do_failures_alone() -> None:
    known = {"cost": Cost(1, 1)}
    good = [make_trial(number, {"accuracy": 0.5}, **known) for number in range(4)]
    bad = [make_trial(10 + number, state="failed", **known) for number in range(2)]
    untold = [make_trial(20, state="failed"), make_trial(21, state="infeasible", **known)]
    assert telling_failures([*good, bad[0], *untold]) == []
    assert telling_failures(bad) == []
    assert telling_failures([*good, *bad, *untold]) == [*good, *bad]


def test_where_no_limit_was_broken_and_nothing_failed_gains_stay_as_they_are() -> None:
    numbers, gains = np.zeros((6, 2), dtype=np.float32), np.array([0.3, 0.1])
    odds = Odds.learnt(
        numbers, {"latency_ms": [0.9, 1.0, None, 0.2, 0.3, 0.4]}, {"latency_ms": 1.0}, numbers[:0], [], 0
    )
    assert odds.weighed(gains, numbers[:2], nothing_kept=True) is gains
    assert odds.keeps(numbers) == [True] * 6


def test_what_probably_breaks_a_limit_comes_last_whatever_it_promises() -> None:
    numbers = np.repeat(np.arange(4, dtype=np.float32), 5)[:, None]
    values = [0.5 + one for one in numbers[:, 0]]
    odds = Odds.learnt(numbers, {"latency_ms": values}, {"latency_ms": 2.0}, numbers[:0], [], 0)
    asked = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    assert odds.keeps(asked) == [True, True, False]
    worth = odds.weighed(np.array([1e-9, 1e-6, 0.5]), asked, nothing_kept=False)
    assert list(np.argsort(-worth)) == [1, 0, 2]
    assert list(np.argsort(-odds.weighed(np.array([0.0, 0.0, 0.5]), asked, nothing_kept=True))) == [0, 1, 2]


def test_an_excess_is_free_of_units() -> None:
    assert excess("latency_ms", np.array([1.0, 2.0, 0.0]), 2.0) == pytest.approx([math.log(0.5), 0, math.log(1e-6)])
    assert excess("debiased_squared_error", np.array([-0.01, 0.02]), 0.01) == pytest.approx([-2.0, 1.0])
