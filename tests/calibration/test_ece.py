"""Calibration errors: their oracles, their policies, and what they are invariant to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.binning import equal_mass, equal_width
from calibration.ece import (
    debiased_squared_error,
    ece,
    ece_binary,
    ece_classwise,
    ece_equal_mass,
    mce,
    smooth_ece,
)
from calibration.errors import TooFewRowsError
from calibration.outcomes import Outcomes, top_label

SCORES = [ece, ece_equal_mass, ece_classwise, mce, debiased_squared_error, smooth_ece]
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def torchmetrics():
    return pytest.importorskip("torchmetrics.functional.classification")


def torch_binary(torchmetrics, p, happened, *, norm="l1", bins=15):
    import torch

    return torchmetrics.binary_calibration_error(
        torch.tensor(p), torch.tensor(happened).long(), n_bins=bins, norm=norm
    ).item()


@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equal_to_torchmetrics(torchmetrics, probabilities, n, bins) -> None:
    # Their multi-class function computes in float32 (equal to 1e-6 only); their binary one, given the same events,
    # "the top label is right", keeps float64.
    import torch

    p, labels = probabilities(n, sharpness=2.0)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    assert ece(p, labels, bins) == pytest.approx(torch_binary(torchmetrics, confidence, right, bins=bins), abs=1e-9)
    assert mce(p, labels, bins) == pytest.approx(
        torch_binary(torchmetrics, confidence, right, norm="max", bins=bins), abs=1e-9
    )
    assert ece_binary(p[:, 1], labels == 1, bins) == pytest.approx(
        torch_binary(torchmetrics, p[:, 1], labels == 1, bins=bins), abs=1e-9
    )
    classwise = [torch_binary(torchmetrics, p[:, k], labels == k, bins=bins) for k in range(4)]
    assert ece_classwise(p, labels, bins) == pytest.approx(np.mean(classwise), abs=1e-9)
    theirs = torchmetrics.multiclass_calibration_error(torch.tensor(p), torch.tensor(labels), 4, n_bins=bins).item()
    assert ece(p, labels, bins) == pytest.approx(theirs, abs=1e-6)


def test_unlike_torchmetrics_bins_are_closed_on_the_right(torchmetrics) -> None:
    # Guo's bins are (a, b]; torchmetrics' are [a, b), with a bin of its own for exactly 1. They part on an edge.
    p, happened = np.array([0.25, 0.5, 1.0, 0.9]), np.array([1, 0, 1, 0])
    assert ece_binary(p, happened, 4) == pytest.approx((0.75 + 0.5 + abs(1.0 + 0.0 - 1.9)) / 4, abs=1e-15)
    assert torch_binary(torchmetrics, p, happened, bins=4) == pytest.approx(
        (abs(0.25 - 1.0) + 0.5 + 0.9 + 0.0) / 4, abs=1e-7
    )


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_bins_equal_scikit_learns(probabilities, strategy) -> None:
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    p, labels = probabilities(3000)
    outcomes = top_label(p, labels)
    # Equal weight: scikit-learn cuts at interpolated quantiles, which parts rows as we do when bins divide n.
    bins = (equal_width if strategy == "uniform" else equal_mass)(outcomes, 15)
    frequency, mean = curve(outcomes.happened, outcomes.probability, n_bins=15, strategy=strategy)
    assert bins.frequency(outcomes.happened) == pytest.approx(frequency, abs=1e-9)
    assert bins.probability == pytest.approx(mean, abs=1e-9)


def test_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    labels = [0, 1, 1, 1]
    # Two bins: all confidences are in (0.5, 1]. Accuracy 3/4, confidence 3/4.
    assert ece(p, labels, 2) == pytest.approx(0.0, abs=1e-15)
    # Ten bins: .9 right, .8 wrong, .7 right, .6 right, each alone.
    assert ece(p, labels, 10) == pytest.approx((0.1 + 0.8 + 0.3 + 0.4) / 4, abs=1e-15)
    assert mce(p, labels, 10) == pytest.approx(0.8, abs=1e-15)
    # Equal mass, two bins: (.6, .7) both right; (.8, .9) half right.
    assert ece_equal_mass(p, labels, 2) == pytest.approx((0.35 + 0.35) / 2, abs=1e-15)
    # Debiased: first bin has no variance; second 0.35^2 - 0.25 / 1.
    assert debiased_squared_error(p, labels, 2) == pytest.approx((0.35**2 + 0.35**2 - 0.25) / 2, abs=1e-15)


def test_ties_are_never_parted_and_the_first_of_equal_classes_is_on_top() -> None:
    p = np.array([[0.5, 0.5]] * 6 + [[0.1, 0.9]] * 2)
    labels = [0, 0, 0, 1, 1, 1, 1, 1]
    bins = equal_mass(top_label(p, labels), 4)
    assert bins.counts.tolist() == [6, 2]
    assert ece_equal_mass(p, labels, 4) == pytest.approx(2 * 0.1 / 8, abs=1e-15)


@given(seeds, st.integers(1, 20), st.integers(2, 60))
def test_equal_mass_bins_differ_by_one_row(seed, bins, n) -> None:
    p = np.random.default_rng(seed).random(n)
    counts = equal_mass(Outcomes(p, p > 0.5, np.full(n, 1 / n)), bins).counts
    assert counts.sum() == n
    assert len(counts) == min(bins, n)
    assert np.ptp(counts) <= 1


@given(seeds, st.integers(1, 20), st.integers(2, 60))
def test_joined_bins_have_two_rows_each(seed, bins, n) -> None:
    p = np.random.default_rng(seed).integers(0, 8, n) / 8
    assert equal_mass(Outcomes(p, p > 0.5, np.full(n, 1 / n)), bins, least_rows=2).counts.min() >= 2


@pytest.mark.parametrize("score", SCORES)
@settings(max_examples=15)
@given(seed=seeds)
def test_an_order_of_rows_or_classes_changes_nothing(score, probabilities, seed) -> None:
    p, labels = probabilities(80, sharpness=2.0, seed=seed)
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(80), rng.permutation(4)
    plain = score(p, labels)
    assert score(p[rows], labels[rows]) == pytest.approx(plain, abs=1e-12)
    assert score(p[:, classes], np.argsort(classes)[labels]) == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("score", [ece, ece_classwise, mce, smooth_ece])
@settings(max_examples=15)
@given(seed=seeds)
def test_whole_weights_are_repetitions(score, probabilities, seed) -> None:
    p, labels = probabilities(60, sharpness=2.0, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, 60)
    weights[0] = 1
    repeated = score(np.repeat(p, weights, axis=0), np.repeat(labels, weights))
    assert score(p, labels, weights=weights) == pytest.approx(repeated, abs=1e-9)
    assert score(p, labels, weights=weights * 0.37) == pytest.approx(repeated, abs=1e-9)


@pytest.mark.parametrize("score", SCORES)
def test_equal_weights_change_nothing(score, probabilities) -> None:
    p, labels = probabilities(100, sharpness=2.0)
    assert score(p, labels, weights=np.full(100, 5.0)) == pytest.approx(score(p, labels), abs=1e-12)


@given(seeds)
def test_bounds(probabilities, seed) -> None:
    p, labels = probabilities(50, sharpness=3.0, seed=seed)
    assert 0.0 <= ece(p, labels) <= mce(p, labels) <= 1.0
    assert 0.0 <= smooth_ece(p, labels) <= 1.0
    one_bin = abs((p.argmax(axis=1) == labels).mean() - p.max(axis=1).mean())
    assert ece(p, labels, 1) == pytest.approx(one_bin, abs=1e-12)
    assert ece(p, labels) >= one_bin - 1e-12
    assert ece_equal_mass(p, labels) >= one_bin - 1e-12


def test_the_debiased_error_is_unbiased_and_signed(probabilities) -> None:
    perfect = np.array([debiased_squared_error(*probabilities(200, seed=seed)) for seed in range(1500)])
    assert abs(perfect.mean()) < 4 * perfect.std() / math.sqrt(perfect.size)
    assert 0.3 < np.mean(perfect < 0.0) < 0.75
    plain = np.array([ece_equal_mass(*probabilities(200, seed=seed)) for seed in range(100)])
    assert plain.mean() > 0.05


def test_the_debiased_error_of_a_wrong_model_does_not_depend_on_n(probabilities) -> None:
    truth = debiased_squared_error(*probabilities(400_000, sharpness=2.0, seed=1))
    small = np.array([debiased_squared_error(*probabilities(150, sharpness=2.0, seed=seed)) for seed in range(600)])
    assert abs(small.mean() - truth) < 4 * small.std() / math.sqrt(small.size)


def test_the_debiased_error_needs_two_rows() -> None:
    with pytest.raises(TooFewRowsError, match="two rows"):
        debiased_squared_error([[0.3, 0.7]], [0])
    with pytest.raises(TooFewRowsError, match="two rows"):
        debiased_squared_error([[0.3, 0.7], [0.1, 0.9]], [0, 1], weights=[1.0, 0.0])


def smooth_reference(confidence, right) -> float:
    """Return the smooth error by quadrature over explicit mirror images, and bisection."""
    grid = (np.arange(2000) + 0.5) / 2000

    def smoothed(width: float) -> float:
        images = np.concatenate([sign * confidence + 2.0 * m for m in range(-2, 3) for sign in (1.0, -1.0)])
        residual = np.tile(right - confidence, 10) / confidence.size
        kernel = np.exp(-0.5 * np.square((grid[:, None] - images) / width)) / (width * math.sqrt(2.0 * math.pi))
        return float(np.abs(kernel @ residual).mean())

    low, high = 1e-4, 1.0
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if smoothed(middle) > middle else (low, middle)
    return 0.5 * (low + high)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_smooth_ece_is_its_definition(probabilities, sharpness) -> None:
    p, labels = probabilities(150, sharpness=sharpness, seed=2)
    expected = smooth_reference(p.max(axis=1), (p.argmax(axis=1) == labels).astype(float))
    assert smooth_ece(p, labels) == pytest.approx(expected, rel=1e-4)


def test_smooth_ece_does_not_jump_where_ece_does() -> None:
    # Half the rows at 1/2 + e all right, half at 1/2 - e (class 1) all wrong in the sense of P(y = 1): a tiny shift
    # across a bin's edge takes the binned error from 1/2 to 0, and the smooth one hardly moves.
    labels = np.array([1, 0] * 50)
    apart = np.array([0.6 + 1e-9, 0.6 - 1e-9] * 50)
    together = np.full(100, 0.6 - 1e-9)
    one, other = (np.column_stack([1 - p, p]) for p in (apart, together))
    assert abs(ece(one, labels, 5) - ece(other, labels, 5)) > 0.3
    assert smooth_ece(one, labels) == pytest.approx(smooth_ece(other, labels), abs=1e-6)


def test_a_constant_base_rate_has_no_calibration_error() -> None:
    labels = np.array([0] * 70 + [1] * 30)
    p = np.tile([0.7, 0.3], (100, 1))
    assert ece(p, labels) == pytest.approx(0.0, abs=1e-12)
    assert smooth_ece(p, labels) == pytest.approx(0.0, abs=1e-6)
