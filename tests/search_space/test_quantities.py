"""Quantities as people write them, read exactly and written readably."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space.quantities import (
    format_bytes,
    format_count,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_milliseconds,
    parse_seconds,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (24, 24),
        ("24", 24),
        ("200k", 200_000),
        ("1.001k", 1001),
        (" 5 M ", 5_000_000),
        ("2.3B", 2_300_000_000),
        (1e6, 10**6),
    ],
)
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


@given(st.integers(1, 10**9))
def test_a_count_in_thousands_is_exact(thousandths: int) -> None:
    whole, rest = divmod(thousandths, 1000)
    assert parse_count(f"{whole}.{rest:03d}k") == thousandths


@pytest.mark.parametrize(
    ("text", "size"),
    [(512, 512), ("512MB", 512_000_000), ("2GiB", 2**31), ("1.5 GiB", 3 * 2**29), ("64KiB", 65536), ("7B", 7)],
)
def test_bytes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


def test_a_part_of_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        parse_bytes("0.2")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(90, 90), ("90s", 90), ("10min", 600), ("2h", 7200), ("1d", 86400), ("250ms", 0.25), ("1.5m", 90)],
)
def test_seconds(text: object, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "milliseconds"), [(3, 3), ("3ms", 3), ("0.5s", 500)])
def test_milliseconds(text: object, milliseconds: float) -> None:
    assert parse_milliseconds(text) == pytest.approx(milliseconds)


def test_shares() -> None:
    assert parse_share("0.5%") == pytest.approx(0.005)


@pytest.mark.parametrize("read", [parse_count, parse_bytes, parse_seconds, parse_milliseconds])
@pytest.mark.parametrize(
    "value",
    [True, None, [], "", "many", "-1", -1, 0, "0", math.nan, math.inf, "nan", "1e400", "5 parsecs", "1" * 65, 10**19],
)
def test_what_is_no_quantity_is_refused(read, value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        read(value)


@pytest.mark.parametrize("value", [2.5, "2.5", "1.0001k"])
def test_a_part_of_a_thing_is_no_count(value: object) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_count(value)


def test_the_message_names_the_units() -> None:
    with pytest.raises(ValueError, match="'2GiBB'; units: B, kB, KB, MB, GB, KiB, MiB, GiB"):
        parse_bytes("2GiBB")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (73_728, "73.7k"),
        (999_499, "999k"),
        (999_999, "1M"),
        (22_713_216, "22.7M"),
        (2e9, "2B"),
    ],
)
def test_counts_are_written_with_three_digits(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1000 * 1024, "1000 KiB"),
        (1023 * 1024, "1023 KiB"),
        (2**20, "1 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**41, "2048 GiB"),
    ],
)
def test_bytes_are_written_in_binary_units(value: float, text: str) -> None:
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0s"), (59.94, "59.9s"), (59.97, "1m 0s"), (200, "3m 20s"), (3599.7, "1h 0m"), (7260, "2h 1m")],
)
def test_seconds_are_written_for_people(value: float, text: str) -> None:
    assert format_seconds(value) == text


@given(st.floats(0, 1e15))
def test_nothing_is_written_in_powers_of_ten(value: float) -> None:
    assert "e" not in format_count(value)
    assert "e" not in format_bytes(value)
