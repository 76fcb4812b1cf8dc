"""How round numbers are, and how far that may have moved the sum of a row of probabilities from one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LARGEST_ERROR = 0.5
"""Where thousands of classes are rounded to a few decimals, nothing may be left; a row of zeros never sums to one."""

_FLOAT32_ERROR = 2.0**-24
"""Half a unit of float32 just below one: values may have passed through it since they were rounded."""

_DECIMALS = range(3, 7)

_DIGITS = {3: 5e-3, 5: 2.0**-10}
"""Error, as part of the value, of so many significant digits. With five, float16 as text is told: it never has more."""

_LOST_BITS = {16: 2.0**-7, 13: 2.0**-10}
"""Error, as part of the value, by the last bits of float32 that are zero: 16 in bfloat16, 13 in float16.

Twice half a unit, as the softmax may have been computed in it.
"""


def rounding_error(values: npt.NDArray[np.float64]) -> float:
    """Return the most that rounding may have moved the sum of a row; 0 for values that show no rounding.

    Half a unit for each value, of the coarsest rounding that fits all of them. Decimals have one unit; where the unit
    is a part of the value (significant digits, bfloat16, float16), the errors of a row are that part of one.

    Args:
        values: Shape (n, k), each in [0, 1].
    """
    found = [0.5 * values.shape[1] * 10.0**-places for places in _DECIMALS if _has_decimals(values, places)]
    found += [part for digits, part in _DIGITS.items() if _has_digits(values, digits)]
    found += [part for bits, part in _LOST_BITS.items() if _lost_bits(values, bits)]
    return min(max(found, default=0.0), LARGEST_ERROR)


def _has_decimals(values: npt.NDArray[np.float64], places: int) -> bool:
    return bool(np.all(np.abs(np.round(values, places) - values) <= _FLOAT32_ERROR))


def _has_digits(values: npt.NDArray[np.float64], digits: int) -> bool:
    positive = values[values > 1e-300]
    unit = 10.0 ** (np.floor(np.log10(positive)) - digits + 1)
    return bool(np.all(np.abs(np.round(positive / unit) * unit - positive) <= 2.0 * _FLOAT32_ERROR * positive))


def _lost_bits(values: npt.NDArray[np.float64], bits: int) -> bool:
    narrow = values.astype(np.float32)
    whole = np.abs(narrow - values) <= _FLOAT32_ERROR * values
    return bool(np.all(whole) and not np.any(narrow.view(np.uint32) & np.uint32((1 << bits) - 1)))
