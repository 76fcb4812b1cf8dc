"""Which calibrator: the policy on rows, and the least cross-fitted NLL."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration import choose_calibrator, cross_fitted_nll, cross_fitted_probabilities, nll
from calibration.choice import allowed_kinds
from calibration.errors import OptionError


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [
        (99, 4, ["temperature"]),
        (100, 2, ["temperature", "platt"]),
        (150, 2, ["temperature", "bias_corrected", "platt"]),
        (250, 4, ["temperature", "bias_corrected"]),
        (400, 4, ["temperature", "bias_corrected", "vector"]),
        (9_999, 3, ["temperature", "bias_corrected", "vector"]),
        (10_000, 3, ["temperature", "bias_corrected", "vector", "histogram", "isotonic"]),
    ],
)
def test_the_policy(n, k, expected) -> None:
    tried, left_out = allowed_kinds(np.zeros((n, k)))
    assert tried == expected
    assert set(left_out) | set(tried) == {"temperature", "bias_corrected", "platt", "vector", "histogram", "isotonic"}
    assert all(left_out.values())


def test_the_least_cross_fitted_nll_is_chosen(draw) -> None:
    logits, labels = draw(1500, temperature=1.0)
    plain = choose_calibrator(logits * 3.0, labels)
    assert plain.nll["temperature"] == pytest.approx(cross_fitted_nll(logits * 3.0, labels), abs=1e-12)
    assert plain.kind == min(plain.nll, key=lambda kind: plain.nll[kind])
    skewed = choose_calibrator(logits * [1.0, 2.0, 3.0, 4.0] + [0.0, 2.0, 0.0, 0.0], labels)
    assert skewed.kind == "vector"
    assert skewed.calibrator.n == 1500


def test_few_rows_get_a_temperature(draw) -> None:
    choice = choose_calibrator(*draw(60, temperature=3.0))
    assert choice.kind == "temperature"
    assert "60 rows; from 400 for 8 numbers" in choice.left_out["vector"]
    assert json.loads(json.dumps(choice.to_json()))["calibrator"]["kind"] == "temperature"


def test_the_user_may_fix_the_kind(draw) -> None:
    choice = choose_calibrator(*draw(60, temperature=3.0), kind="isotonic")
    assert choice.kind == "isotonic"
    assert list(choice.nll) == ["isotonic"]
    with pytest.raises(OptionError, match="auto"):
        choose_calibrator(*draw(60), kind="best")  # type: ignore[arg-type]


def test_small_data_do_worse_with_more_numbers(draw) -> None:
    """The measurements behind the policy: NLL on fresh rows by rows of the fit."""
    fresh, fresh_labels = draw(20_000, temperature=4.0, seed=99)

    def loss(kind, n):
        fits = [choose_calibrator(*draw(n, temperature=4.0, seed=seed), kind=kind).calibrator for seed in range(5)]
        return np.mean([nll(fit.probabilities(fresh), fresh_labels) for fit in fits])

    assert loss("temperature", 40) < loss("isotonic", 40) - 0.05
    assert loss("temperature", 1000) < loss("temperature", 40)
    assert loss("vector", 1000) == pytest.approx(loss("temperature", 1000), abs=0.01)


def test_the_choice_is_made_anew_in_each_fold(draw) -> None:
    logits, labels = draw(700, temperature=3.0)
    p = cross_fitted_probabilities(logits, labels, kind="auto")
    assert p.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert nll(p, labels) == pytest.approx(cross_fitted_nll(logits, labels), abs=0.02)
    with pytest.raises(OptionError, match="at least 3 folds"):
        cross_fitted_probabilities(logits, labels, kind="auto", folds=2)
