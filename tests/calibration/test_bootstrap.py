"""Bootstrap intervals: their coverage on simulations, pairing, nesting, groups."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from calibration import interval, nested_difference, paired_difference
from calibration.errors import NonFiniteError, OptionError, ShapeError, TooFewRowsError
from calibration.scorecard import row_statistics


def binomial_slack(share: float, trials: int) -> float:
    """Return 3.3 standard deviations of a frequency: one false alarm in a thousand."""
    return 3.3 * math.sqrt(share * (1.0 - share) / trials)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n", [15, 200])
def test_the_interval_of_a_mean_covers_the_truth(n, confidence) -> None:
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(800):
        found = interval(rng.normal(3.0, 2.0, n), resamples=500, confidence=confidence)
        covered += found.low <= 3.0 <= found.high
    assert covered / 800 == pytest.approx(confidence, abs=binomial_slack(confidence, 800))


def test_the_interval_of_a_skewed_mean_covers_the_truth(draw) -> None:
    """NLL: few rows carry most of it, so the percentile interval may be a little short, here by at most two points."""
    logits, labels = draw(200_000, temperature=2.0, seed=1)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = -logs[np.arange(labels.size), labels]
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(800):
        found = interval(rng.choice(losses, 300), resamples=500)
        covered += found.low <= losses.mean() <= found.high
    assert 0.95 - 0.02 - binomial_slack(0.95, 800) <= covered / 800 <= 0.95 + binomial_slack(0.95, 800)


def test_the_interval_of_an_accuracy_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(800):
        difficulty = rng.random(250)
        first, second = rng.random(250) < difficulty**0.5, rng.random(250) < difficulty
        found = paired_difference(first.astype(float), second.astype(float), resamples=500)
        covered += found.low <= 2 / 3 - 1 / 2 <= found.high
    assert covered / 800 == pytest.approx(0.95, abs=binomial_slack(0.95, 800))


def test_the_centred_interval_of_the_debiased_error_covers_the_truth(draw) -> None:
    def card(seed, n):
        logits, labels = draw(n, seed=seed)
        logs = 2.0 * logits - np.log(np.exp(2.0 * logits).sum(axis=1, keepdims=True))
        return row_statistics(logs, labels, 10)["debiased_squared_error"]

    truth = card(9_999, 400_000)(np.arange(400_000))
    covered = 0
    for seed in range(300):
        found = interval(card(seed, 400), rows=400, resamples=300, seed=seed, method="centred")
        covered += found.low <= truth <= found.high
    assert 0.95 - 0.025 - binomial_slack(0.95, 300) <= covered / 300 <= 1.0


def test_a_percentile_interval_of_a_biased_error_may_miss_its_own_estimate(draw) -> None:
    logits, labels = draw(2000)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    error = row_statistics(logs, labels, 15)["ece"]
    percentile, centred = (interval(error, rows=2000, method=method) for method in ("percentile", "centred"))
    assert centred.low < centred.estimate < centred.high
    assert centred.high - centred.low == pytest.approx(percentile.high - percentile.low, abs=1e-12)
    assert np.mean([percentile.low, percentile.high]) > percentile.estimate + 0.2 * (percentile.high - percentile.low)


def test_values_and_their_mean_as_a_function_are_the_same() -> None:
    values = np.random.default_rng(0).exponential(size=80)
    plain = interval(values)
    function = interval(lambda rows: float(values[rows].mean()), rows=80)
    assert plain.to_json() == pytest.approx(function.to_json(), abs=1e-12)
    assert plain.resamples == 2000
    assert plain.estimate == pytest.approx(values.mean())
    assert interval(values) == plain
    assert interval(values, seed=1) != plain


def test_any_statistic_of_rows() -> None:
    values = np.random.default_rng(0).normal(size=300)
    found = interval(lambda rows: float(np.median(values[rows])), rows=300)
    assert found.low < found.estimate == np.median(values) < found.high


def test_pairing_removes_what_the_rows_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0.0, 10.0, 200)
    first, second = shared + 1.0 + 0.1 * rng.normal(size=200), shared
    found = paired_difference(first, second)
    assert found.low < 1.0 < found.high
    assert found.high - found.low < 0.05
    assert found.distinguishable
    functions = paired_difference(lambda r: float(first[r].mean()), lambda r: float(second[r].mean()), rows=200)
    assert functions.to_json() == pytest.approx(found.to_json(), abs=1e-10)


def test_equal_things_are_not_distinguishable() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert not paired_difference(values, values).distinguishable
    noise = paired_difference(values, np.random.default_rng(1).normal(size=50))
    assert not noise.distinguishable
    assert json.loads(json.dumps(noise.to_json()))["distinguishable"] is False


def test_groups_widen_an_interval_by_what_their_rows_share() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    values = rng.normal(size=60)[groups] + 0.01 * rng.normal(size=300)
    by_row, by_group = interval(values), interval(values, groups=groups)
    assert by_group.estimate == by_row.estimate
    ratio = (by_group.high - by_group.low) / (by_row.high - by_row.low)
    assert ratio == pytest.approx(math.sqrt(5), rel=0.15)
    names = interval(values, groups=[f"g{group}" for group in groups])
    assert names.high - names.low == pytest.approx(by_group.high - by_group.low, rel=0.1)


def test_nesting_adds_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1, 400))
    first = rows + rng.normal(0.0, 0.5, (5, 1)) + 0.05 * rng.normal(size=(5, 400))
    second = rows + rng.normal(0.0, 0.5, (4, 1)) + 0.05 * rng.normal(size=(4, 400))
    found = nested_difference(first, second)
    assert found.estimate == pytest.approx(first.mean() - second.mean())
    flat = paired_difference(first.mean(axis=0), second.mean(axis=0))
    assert found.high - found.low > 10 * (flat.high - flat.low)
    expected = math.sqrt(first.mean(axis=1).var() / 5 + second.mean(axis=1).var() / 4)
    assert (found.high - found.low) / 3.92 == pytest.approx(expected, rel=0.1)
    assert nested_difference(first, second) == found


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: interval([1.0]), TooFewRowsError),
        (lambda: interval([1.0, np.nan]), NonFiniteError),
        (lambda: interval([[1.0, 2.0]]), ShapeError),
        (lambda: interval([1.0, 2.0], resamples=10), OptionError),
        (lambda: interval([1.0, 2.0], confidence=1.0), OptionError),
        (lambda: interval([1.0, 2.0], method="basic"), OptionError),
        (lambda: interval(lambda rows: 1.0), OptionError),
        (lambda: interval(lambda rows: math.inf, rows=5), NonFiniteError),
        (lambda: interval([1.0, 2.0], groups=[1]), ShapeError),
        (lambda: interval([1.0, 2.0], groups=[1, 1]), TooFewRowsError),
        (lambda: paired_difference([1.0, 2.0], [1.0]), ShapeError),
        (lambda: paired_difference([1.0, 2.0], lambda rows: 1.0), OptionError),
        (lambda: nested_difference(np.ones((2, 9)), np.ones((3, 9))), TooFewRowsError),
        (lambda: nested_difference(np.ones((3, 9)), np.ones((3, 8))), ShapeError),
        (lambda: nested_difference(np.ones(9), np.ones(9)), ShapeError),
    ],
)
def test_bad_input_is_refused(call, error) -> None:
    with pytest.raises(error):
        call()
