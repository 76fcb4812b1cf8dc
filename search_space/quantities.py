"""Quantities as people write them: `200k`, `1%`, `2GiB`, `10min`, `3ms`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_PATTERN = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([A-Za-z%]*)\s*")
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_JOULES = {"": 1.0, "J": 1.0, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6}
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_count(value: object) -> int:
    """Read a whole number such as 24, `200k` or `5M`. Raises ValueError."""
    count = _parse(value, _COUNTS, "a whole number such as 24, 200k or 5M")
    if count != int(count):
        raise ValueError(f"{value!r} is not a whole number")
    return int(count)


def parse_bytes(value: object) -> int:
    """Read a size such as `2GiB` or `512MB`; a bare number is bytes. Raises ValueError."""
    size = round(_parse(value, _BYTES, "a size such as 512MB or 2GiB"))
    if size < 1:
        raise ValueError(f"expected at least one byte, not {value!r}")
    return size


def parse_seconds(value: object) -> float:
    """Read a duration such as `90s`, `10min` or `2h`; a bare number is seconds. Raises ValueError."""
    return _parse(value, _SECONDS, "a duration such as 90s, 10min or 2h")


def parse_milliseconds(value: object) -> float:
    """Read a duration such as `3ms`; a bare number is milliseconds. Raises ValueError."""
    if isinstance(value, str):
        return 1e3 * parse_seconds(value)
    return _parse(value, {"": 1.0}, "a duration such as 3ms")


def parse_joules(value: object) -> float:
    """Read an energy such as `500J` or `2Wh`; a bare number is joules. Raises ValueError."""
    return _parse(value, _JOULES, "an energy such as 500J, 20kJ or 2Wh")


def parse_share(value: str) -> float:
    """Read a percentage such as `0.5%` as a fraction. Raises ValueError."""
    return _parse(value, {"%": 0.01}, "a percentage such as 0.5%")


def format_count(value: float) -> str:
    """Write a count with three significant digits: `73.7k`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (0.9995 * size if size > 1e3 else size):  # 999999 is `1M`, not `1000k`
            return f"{_three_digits(value / size)}{unit}"
    return f"{value:.0f}"


def format_bytes(value: float) -> str:
    """Write a size in binary units: `1.5 MiB`."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """Write a duration: `3m 20s`."""
    if value < 59.95:
        return f"{value:.1f}s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds}s"


def format_joules(value: float) -> str:
    """Write an energy: `1.5 kJ`."""
    for size, unit in ((1e6, "MJ"), (1e3, "kJ")):
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value)} J"


def _three_digits(value: float) -> str:
    """Write a number with three significant digits, or all before its point where those are more."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _parse(value: object, units: dict[str, float] | dict[str, int], expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected {expected}, not {value!r}")
    if isinstance(value, str):
        found = _PATTERN.fullmatch(value[:64])
        if found is None or found[2] not in units:
            raise ValueError(f"expected {expected}, not {value[:64]!r}; units: {', '.join(filter(None, units))}")
        number = float(Fraction(found[1]) * Fraction(units[found[2]]).limit_denominator(1000))
    else:
        number = float(value)
    if not math.isfinite(number) or number <= 0 or number > 1e18:
        raise ValueError(f"expected {expected} above 0, not {value!r}")
    return number
