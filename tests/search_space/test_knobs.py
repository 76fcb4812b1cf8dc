"""Knobs and ranges: what they admit, how they are narrowed, drawn and encoded."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space.errors import CandidateError
from search_space.knobs import LogRange, draw_one, encode_one, flag, shares, sizes, words
from tests.search_space.choosers import Recorded, Replayed

RANK = sizes("r", (1, 2, 4, 8), 4, "rank")
DORA = flag("use_dora", "train magnitudes apart")
ACTIVATION = words("activation", ("relu", "gelu"), "non-linearity")


def test_sizes_admit_other_whole_numbers_from_their_least_on() -> None:
    for value in (1, 3, 1_000_000, (2, 4, 8)):
        RANK.check("lora", value)


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 4.0, True, "4", (4, 0), ()])
def test_sizes_admit_nothing_else(value: object) -> None:
    with pytest.raises(
        CandidateError, match=r"lora\.r: .* is not one of '1', '2', '4', '8', or any whole number from 1"
    ):
        RANK.check("lora", value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 1, "true", (True, False)])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(CandidateError, match=r"lora\.use_dora: .* is not one of 'False', 'True'$"):
        DORA.check("lora", value)  # type: ignore[arg-type]


def test_the_first_word_is_the_default() -> None:
    assert ACTIVATION.default == "relu"
    with pytest.raises(CandidateError, match="'tanh' is not one of 'relu', 'gelu'"):
        ACTIVATION.check("serial_adapter", "tanh")


def test_narrowing_keeps_the_default_where_it_can() -> None:
    assert RANK.narrowed((2, 4)).default == 4
    assert RANK.narrowed((16, 32)).default == 16
    assert RANK.narrowed((16, 32)).values == (16, 32)


def test_narrowing_to_what_is_not_admitted_is_refused() -> None:
    with pytest.raises(CandidateError, match="not one of"):
        RANK.narrowed((4, 0))


def test_a_single_value_asks_the_sampler_nothing() -> None:
    chooser = Recorded(Random(0))
    assert RANK.narrowed((4,)).draw("lora", chooser) == 4
    assert chooser.asked == {}


def test_ordered_values_are_drawn_by_index_and_others_by_text() -> None:
    chooser = Recorded(Random(0))
    RANK.draw("lora", chooser)
    DORA.draw("lora", chooser)
    assert set(chooser.asked) == {"lora.r.index", "lora.use_dora"}
    assert chooser.asked["lora.use_dora"] in ("True", "False")


@given(
    st.lists(st.integers() | st.booleans() | st.text(max_size=3), min_size=1, unique_by=str), st.booleans(), st.data()
)
def test_what_is_encoded_draws_the_same_value(values: list[object], ordered: bool, data: st.DataObject) -> None:
    value = data.draw(st.sampled_from(values))
    parameters = encode_one("x", tuple(values), ordered, value)
    assert draw_one("x", tuple(values), ordered, Replayed(parameters)) == value


def test_a_value_that_is_not_there_cannot_be_encoded() -> None:
    with pytest.raises(ValueError):
        encode_one("x", (1, 2), True, 3)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_a_range_is_positive_rising_and_finite(low: float, high: float) -> None:
    with pytest.raises(CandidateError, match="a range needs 0 < low <= high"):
        LogRange(low, high, 1.0)


@given(st.floats(1e-9, 1e3), st.floats(1, 1e6), st.integers(0, 2**32))
def test_draws_stay_inside_and_are_short(low: float, ratio: float, seed: int) -> None:
    one = LogRange(low, low * ratio, low)
    value = one.draw("lr", Recorded(Random(seed)))
    assert one.low <= value <= one.high
    assert value in (one.low, one.high, float(f"{value:.3g}"))


def test_a_narrowed_range_keeps_its_default_inside() -> None:
    one = LogRange(1e-4, 1e-2, 1e-3)
    assert one.narrowed(5e-4, 5e-3).default == 1e-3
    assert one.narrowed(1e-2, 1.0).default == pytest.approx(0.1)


def test_a_range_of_one_number_asks_the_sampler_nothing() -> None:
    chooser = Recorded(Random(0))
    assert LogRange(1e-3, 1e-3, 1e-3).draw("lr", chooser) == 1e-3
    assert chooser.asked == {}


def test_shares_admit_any_number_between_two_and_are_drawn_as_before() -> None:
    density = shares("density", (0.001, 0.01), 0.01, "share", (1e-6, 1.0))
    assert density.narrowed((0.003, 0.2)).values == (0.003, 0.2)
    assert density.narrowed((0.003, 0.2)).default == 0.003
    for value in (1e-6, 0.5, 1.0):
        density.check("mask", value)
    for value in (0.0, 1.1, math.nan, math.inf, 1, True, "0.5", (0.1, 0.2)):
        with pytest.raises(CandidateError, match=r"or any number from 1e-06 to 1\.0, with a point"):
            density.check("mask", value)  # type: ignore[arg-type]
    assert density.draw("mask", Replayed({"mask.density.index": 1})) == 0.01
