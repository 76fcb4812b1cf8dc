"""Sizes that must fit the modules that a part is put on: refused before training, with what would work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_space.candidate import Part
from search_space.errors import UnsupportedError, one_of

_MOST_SUGGESTIONS = 8


def whole(part: Part, knob: str) -> int:
    """Return a size as one whole number. Raises UnsupportedError where a part gives one for each layer."""
    value = part[knob]
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnsupportedError(f"{part.method} takes one {knob} for all layers, not {value!r}")
    return value


def require_divisor(part: Part, knob: str, widths: Iterable[int]) -> None:
    """Raise UnsupportedError unless a size divides every width; the message names the sizes that would."""
    size, different = whole(part, knob), sorted(set(widths))
    odd = [width for width in different if width % size]
    if odd:
        fitting = [n for n in range(2, min(different) + 1) if not any(width % n for width in different)]
        raise UnsupportedError(
            f"{part.method}: {knob} = {size} does not divide {odd[0]}; "
            f"{one_of(map(str, _spread(fitting))) or 'only 1'} would divide all of {', '.join(map(str, different))}"
        )


def require_at_most(part: Part, knob: str, limits: Iterable[int]) -> None:
    """Raise UnsupportedError where a size is above the least of some limits."""
    size, least = whole(part, knob), min(limits)
    if size > least:
        raise UnsupportedError(f"{part.method}: {knob} = {size} is more than the {least} that the smallest module has")


def _spread(numbers: Sequence[int]) -> Sequence[int]:
    """Return the numbers themselves, or some of them from the smallest to the largest."""
    if len(numbers) <= _MOST_SUGGESTIONS:
        return numbers
    return [numbers[i * (len(numbers) - 1) // (_MOST_SUGGESTIONS - 1)] for i in range(_MOST_SUGGESTIONS)]
