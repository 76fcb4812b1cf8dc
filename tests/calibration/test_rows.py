"""What is let in at the door, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import (
    brier,
    cross_fitted_nll,
    ece_floor,
    fit_calibrator,
    fit_conformal,
    fit_temperature,
    interval,
    nll,
    nll_from_logits,
)
from calibration.ece import ece, ece_binary
from calibration.errors import (
    CalibrationError,
    LabelError,
    LogitsError,
    NonFiniteError,
    OneClassError,
    OptionError,
    ProbabilityError,
    ShapeError,
    TooFewRowsError,
    UnsupportedTaskError,
    WeightError,
)
from calibration.report import report
from calibration.rows import checked_logits

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [3.0, 0.0, 1.0], [-1.0, 0.2, 0.1]])
LABELS = np.array([0, 1, 2, 1])
FITS = [fit_temperature, nll_from_logits, lambda z, y: fit_calibrator("vector", z, y), lambda z, y: report(z, y)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("logits", "error", "words"),
    [
        (np.where(LOGITS == 3.0, np.nan, LOGITS), NonFiniteError, r"nan at \(2, 0\)"),
        (np.where(LOGITS == 3.0, np.inf, LOGITS), NonFiniteError, r"inf at \(2, 0\)"),
        (LOGITS * 1e200, NonFiniteError, "answer_set"),
        (np.empty((0, 3)), TooFewRowsError, "empty"),
        (LOGITS[:, :1], UnsupportedTaskError, "regression"),
        (LOGITS[0], ShapeError, "two dimensions"),
        (LOGITS[None], UnsupportedTaskError, "Generation"),
        (np.empty((4, 0)), ShapeError, "no columns"),
        (np.full((4, 3), 1 / 3), LogitsError, "look like probabilities"),
        (np.where(LOGITS[:, :1] == 3.0, -np.inf, LOGITS), LogitsError, "no option"),
        ([["a", "b"]], ShapeError, "real numbers"),
        (LOGITS.astype(complex), ShapeError, "real numbers"),
        ([[1.0, 2.0], [1.0]], ShapeError, "real numbers"),
    ],
)
def test_bad_logits_are_refused(fit, logits, error, words) -> None:
    with pytest.raises(error, match=words):
        fit(logits, LABELS)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ([0, 1, 3, 1], LabelError, "label 3 in row 2 is out of range: 3 classes allow 0 to 2"),
        ([0, -1, 2, 1], LabelError, "label -1 in row 1"),
        ([0, 1, 2], ShapeError, r"shape \(4,\)"),
        ([0.0, 1.0, 2.0, 1.0], UnsupportedTaskError, "Regression"),
        (np.eye(4, 3, dtype=int), UnsupportedTaskError, "Multi-label"),
        (["0", "1", "2", "1"], LabelError, "class indices"),
    ],
)
def test_bad_labels_are_refused(fit, labels, error, words) -> None:
    with pytest.raises(error, match=words):
        fit(LOGITS, labels)


def test_a_label_outside_its_answer_set_is_refused() -> None:
    logits = LOGITS.copy()
    logits[3, 1] = -np.inf
    with pytest.raises(LabelError, match="outside that row's answer set"):
        fit_temperature(logits, LABELS)
    with pytest.raises(LabelError, match="row 3"):
        nll_from_logits(LOGITS, LABELS, answer_set=np.isfinite(logits))


def test_an_answer_set_is_boolean_and_fits() -> None:
    for wrong in (np.ones((4, 3)), np.ones((3, 3), dtype=bool), np.ones(4, dtype=bool)):
        with pytest.raises(ShapeError, match="answer_set"):
            checked_logits(LOGITS, wrong)


@pytest.mark.parametrize("fit", [fit_temperature, cross_fitted_nll, lambda z, y: report(z, y)])
def test_one_class_only_is_refused(fit) -> None:
    with pytest.raises(OneClassError, match="all 4 labels are class 1"):
        fit(LOGITS, [1, 1, 1, 1])


def test_one_class_only_is_refused_of_judged_rows_in_words_of_their_own() -> None:
    fit = fit_temperature(LOGITS + np.eye(4, 3), LABELS)
    with pytest.raises(OneClassError, match="all 4 labels of the rows to be judged are class 1") as refused:
        report(LOGITS, [1, 1, 1, 1], calibrator=fit)
    assert "fit" not in str(refused.value)


def test_rows_of_weight_zero_do_not_count_as_a_second_class() -> None:
    with pytest.raises(OneClassError):
        fit_temperature(LOGITS, [1, 1, 1, 0], [1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ([1.0, 1.0, 1.0], ShapeError),
        ([1.0, -1.0, 1.0, 1.0], WeightError),
        ([0.0] * 4, WeightError),
        ([np.nan] * 4, WeightError),
        ([np.inf, 1.0, 1.0, 1.0], WeightError),
    ],
)
def test_bad_weights_are_refused(weights, error) -> None:
    with pytest.raises(error):
        fit_temperature(LOGITS, LABELS, weights)


@pytest.mark.parametrize("score", [ece, nll, brier, ece_floor, fit_conformal])
@pytest.mark.parametrize(
    ("probabilities", "error", "words"),
    [
        (LOGITS, ProbabilityError, "0 to 1 is allowed"),
        (np.full((4, 3), 0.3), ProbabilityError, "sums to 0.9"),
        (np.full((4, 3), np.nan), NonFiniteError, "nan"),
        (np.empty((0, 3)), TooFewRowsError, "empty"),
        (np.ones((4, 1)), UnsupportedTaskError, "binary"),
    ],
)
def test_bad_probabilities_are_refused(score, probabilities, error, words) -> None:
    with pytest.raises(error, match=words):
        score(probabilities, LABELS)


def test_binary_probabilities_have_one_or_two_columns() -> None:
    assert ece_binary([0.2, 0.9], [0, 1]) == pytest.approx(ece_binary([[0.8, 0.2], [0.1, 0.9]], [0, 1]), abs=1e-15)
    with pytest.raises(ShapeError, match="binary"):
        ece_binary(np.full((4, 3), 1 / 3), [0, 1, 0, 1])
    with pytest.raises(TooFewRowsError):
        ece_binary([], [])
    with pytest.raises(LabelError):
        ece_binary([0.2, 0.9], [0, 2])


@pytest.mark.parametrize("options", [{"bins": 0}, {"bins": 2.5}, {"bins": True}, {"draws": 0}, {"seed": -1}])
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        ece_floor([[0.5, 0.5], [0.9, 0.1]], [0, 1], **options)


def test_an_empty_split_is_refused_by_everything() -> None:
    for call in (
        lambda: fit_temperature(np.empty((0, 3)), []),
        lambda: ece(np.empty((0, 3)), []),
        lambda: interval([]),
        lambda: fit_conformal(np.empty((0, 3)), []),
    ):
        with pytest.raises(TooFewRowsError, match="empty"):
            call()


def test_nothing_is_clamped_or_normalised() -> None:
    nearly = np.array([[0.50004, 0.5], [0.2, 0.8]])
    assert nll(nearly, [0, 1]) == pytest.approx(-(np.log(0.50004) + np.log(0.8)) / 2, abs=1e-15)
    assert nll([[0.0, 1.0], [0.5, 0.5]], [0, 1]) == np.inf


def test_every_refusal_is_a_calibration_error() -> None:
    with pytest.raises(CalibrationError):
        fit_temperature(LOGITS, [0, 1, 7, 1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_other_number_types_are_taken_at_their_value(dtype) -> None:
    logits = np.array([[2, -1, 0], [0, 1, -2], [3, 0, 1], [-1, 2, 1]]).astype(dtype)
    assert fit_temperature(logits, LABELS).temperature == fit_temperature(logits.astype(float), LABELS).temperature


def as_text(values: np.ndarray, form: str) -> np.ndarray:
    return np.array([[float(format(value, form)) for value in row] for row in values])


def as_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


ROUNDINGS = {
    "3 decimals": lambda p: np.round(p, 3),
    "4 decimals": lambda p: np.round(p, 4),
    "5 decimals": lambda p: np.round(p, 5),
    "6 decimals": lambda p: np.round(p, 6),
    "4 decimals in float32": lambda p: np.round(p, 4).astype(np.float32),
    "3 digits": lambda p: as_text(p, ".3g"),
    "float16": lambda p: p.astype(np.float16),
    "float16 as text": lambda p: np.array([[float(str(value)) for value in row] for row in p.astype(np.float16)]),
    "bfloat16": as_bfloat16,
    "bfloat16 as text": lambda p: as_text(as_bfloat16(p), ".9g"),
    "float32": lambda p: p.astype(np.float32),
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("k", [2, 3, 10, 150])
def test_rounded_probabilities_are_no_logits(probabilities, rounding, k) -> None:
    for seed in range(3):
        p, labels = probabilities(60, k, seed=seed)
        p[0] = [1.0] + [5e-324] * (k - 1)
        with pytest.raises(LogitsError, match="look like probabilities"):
            fit_temperature(ROUNDINGS[rounding](p), labels)


def test_rounded_probabilities_with_masked_options_are_no_logits(probabilities) -> None:
    p, labels = probabilities(60, 3)
    masked = np.hstack([np.round(p, 3), np.full((60, 1), -np.inf)])
    with pytest.raises(LogitsError, match="look like probabilities"):
        nll_from_logits(masked, labels)


def test_three_rounded_rows_are_enough() -> None:
    rows = np.array([[0.333, 0.333, 0.333], [0.124, 0.374, 0.501], [0.2, 0.5, 0.3]])
    with pytest.raises(LogitsError, match="up to rounding"):
        nll_from_logits(rows, [0, 1, 2])
    assert np.isfinite(nll_from_logits(rows[:2], [0, 1])), "two such rows may be chance"
    assert np.isfinite(nll_from_logits(rows[[0, 1] * 9], [0, 1] * 9)), "and so may they many times over"


@pytest.mark.parametrize("constant", [0.0, 0.3, 0.333, 0.4999, 0.5001])
@pytest.mark.parametrize("k", [2, 3, 2000])
def test_constant_logits_are_logits(constant, k) -> None:
    assert fit_temperature(np.full((40, k), constant), np.arange(40) % k).status == "constant"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("k", [2, 3, 10])
def test_real_logits_are_let_in_however_they_were_rounded(rounding, k) -> None:
    """Three rows of numbers in [0, 1], which is where chance comes nearest to probabilities."""
    random, refused = np.random.default_rng(0), 0
    for _ in range(1000):
        try:
            checked_as_logits(ROUNDINGS[rounding](random.random((3, k))))
        except LogitsError:
            refused += 1
    assert refused <= 1


def checked_as_logits(logits: np.ndarray) -> None:
    nll_from_logits(logits, np.arange(len(logits)) % logits.shape[1])
