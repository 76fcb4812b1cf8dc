"""Which layers of a model: `all`, `top:3`, `first:3`, `every:2`, `band:2-4`, `group:2/4`, `bits:101100`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from search_space.errors import CandidateError, NotationError, PlacementError, did_you_mean, one_of

LayersKind = Literal["all", "top", "first", "every", "band", "group", "bits"]

KINDS: tuple[LayersKind, ...] = get_args(LayersKind)

_FORMS: dict[LayersKind, str] = {
    "all": "all",
    "top": "top:3",
    "first": "first:3",
    "every": "every:2",
    "band": "band:2-4",
    "group": "group:2/4",
    "bits": "bits:101100",
}
_TOO_MANY = 10**6
_NUMBER = "(0|[1-9][0-9]{0,5})"
_ARGUMENTS: dict[LayersKind, re.Pattern[str]] = {
    "top": re.compile(_NUMBER),
    "first": re.compile(_NUMBER),
    "every": re.compile(_NUMBER),
    "band": re.compile(f"{_NUMBER}-{_NUMBER}"),
    "group": re.compile(f"{_NUMBER}/{_NUMBER}"),
}


@dataclass(frozen=True, order=True, slots=True)
class Layers:
    """A selector of layers, counted from 0 at the input side.

    - `all`: every layer, and whatever stands outside the layers (embeddings, the last norm).
    - `top:3`, `first:3`: the last three, the first three.
    - `every:2`: each second layer: 1, 3, 5 and so on.
    - `band:2-4`: layers 2, 3 and 4; both ends belong to it.
    - `group:2/4`: the second of four contiguous groups. Layers left over by the division go to the middle
      groups first, as in the spindle of S4 (Chen et al., 2023); the upper group first where two are as near.
    - `bits:101100`: one digit per layer; the model must have exactly as many layers.

    `every:1` and `group:1/1` are stored as `all`.

    Attributes:
        kind: The word before the colon.
        numbers: The numbers after it, in order; for `bits` the digits.

    Raises:
        CandidateError: The numbers are not possible for this kind, whatever the model.
    """

    kind: LayersKind = "all"
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CandidateError(f"{self.kind!r} is not a kind of layers; allowed: {one_of(KINDS)}")
        object.__setattr__(self, "numbers", tuple(self.numbers))
        if not all(type(number) is int and 0 <= number < _TOO_MANY for number in self.numbers):
            raise CandidateError(f"layers take whole numbers from 0 to {_TOO_MANY - 1}, got {self.numbers!r}")
        if not _possible(self.kind, self.numbers):
            raise CandidateError(f"{str(self)!r} can match no layer; one that can is {_FORMS[self.kind]!r}")
        if (self.kind, self.numbers) in {("every", (1,)), ("group", (1, 1))}:
            object.__setattr__(self, "kind", "all")
            object.__setattr__(self, "numbers", ())

    def __str__(self) -> str:
        separator = {"band": "-", "group": "/"}.get(self.kind, "")
        numbers = separator.join(str(number) for number in self.numbers)
        return f"{self.kind}:{numbers}" if numbers else self.kind

    @classmethod
    def parse(cls, text: str) -> Layers:
        """Read the notation; the inverse of `str`. No spaces, no signs, no leading zeros.

        Raises:
            NotationError: The text is not one of the forms.
        """
        if text == "all":
            return cls()
        word, _, argument = text.partition(":")
        kind = next((known for known in KINDS if known == word), None)
        if kind is None:
            raise NotationError(f"unknown layers {text!r}{did_you_mean(word, KINDS)}; {_allowed_forms()}")
        try:
            return cls(kind, _numbers(kind, argument))
        except CandidateError as error:
            raise NotationError(f"layers {text!r}: {error}") from error

    def indices(self, n_layers: int) -> tuple[int, ...]:
        """Return the chosen layers of a model of `n_layers` layers, ascending.

        Raises:
            PlacementError: The selector reaches beyond the layers of the model, or chooses none.
        """
        return _indices(self, n_layers)


@lru_cache(maxsize=4096)
def _indices(layers: Layers, n_layers: int) -> tuple[int, ...]:
    reach = _reach(layers.kind, layers.numbers)
    if reach > n_layers or (layers.kind == "bits" and reach != n_layers):
        raise PlacementError(
            f"layers {str(layers)!r} need {'exactly' if layers.kind == 'bits' else 'at least'} {reach} "
            f"layers, the model has {n_layers}; {_allowed_forms()}"
        )
    chosen = tuple(_choose(layers.kind, layers.numbers, n_layers))
    if not chosen:
        raise PlacementError(f"layers {str(layers)!r} choose none of {n_layers} layers; {_allowed_forms()}")
    return chosen


def _allowed_forms() -> str:
    return f"the forms are {', '.join(_FORMS.values())}"


def _numbers(kind: LayersKind, argument: str) -> tuple[int, ...]:
    if kind == "bits" and re.fullmatch("[01]+", argument):
        return tuple(int(digit) for digit in argument)
    match = _ARGUMENTS[kind].fullmatch(argument) if kind in _ARGUMENTS else None
    if match is None:
        raise NotationError(f"{argument!r} does not fit; write it like {_FORMS[kind]}")
    return tuple(int(number) for number in match.groups())


def _possible(kind: LayersKind, numbers: tuple[int, ...]) -> bool:
    match kind, numbers:
        case "all", ():
            return True
        case "top" | "first" | "every", (count,):
            return count >= 1
        case "band", (start, end):
            return 0 <= start <= end
        case "group", (nth, groups):
            return 1 <= nth <= groups
        case "bits", (_, *_):
            return set(numbers) <= {0, 1}
    return False


def group_sizes(n_layers: int, groups: int) -> tuple[int, ...]:
    """Return how many layers each of `groups` contiguous groups holds; the rest goes to the middle ones."""
    each, rest = divmod(n_layers, groups)
    middle_first = sorted(range(groups), key=lambda group: (abs(2 * group - groups + 1), -group))
    favoured = set(middle_first[:rest])
    return tuple(each + (group in favoured) for group in range(groups))


def _reach(kind: LayersKind, numbers: tuple[int, ...]) -> int:
    """Return how many layers a model must have."""
    match kind:
        case "band":
            return numbers[1] + 1
        case "group":
            return numbers[1]
        case "bits":
            return len(numbers)
        case _:
            return numbers[0] if numbers else 0


def _choose(kind: LayersKind, numbers: tuple[int, ...], n_layers: int) -> Iterable[int]:
    match kind:
        case "all":
            return range(n_layers)
        case "top":
            return range(n_layers - numbers[0], n_layers)
        case "first":
            return range(numbers[0])
        case "every":
            return range(numbers[0] - 1, n_layers, numbers[0])
        case "band":
            return range(numbers[0], numbers[1] + 1)
        case "group":
            return _group(numbers[0], group_sizes(n_layers, numbers[1]))
        case "bits":
            return (index for index, bit in enumerate(numbers) if bit)


def _group(nth: int, sizes: tuple[int, ...]) -> range:
    start = sum(sizes[: nth - 1])
    return range(start, start + sizes[nth - 1])
