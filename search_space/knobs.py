"""What a knob may be set to. A domain knows its values, its default, how to check one and how to draw one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol, TypeVar

from search_space.candidate import KnobValue
from search_space.errors import CandidateError, one_of

_T = TypeVar("_T")


class Chooser(Protocol):
    """Draws one value at a time: a sampler seen from the space. The same name always gets the same domain."""

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options, which have no order."""

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""

    def real(self, name: str, low: float, high: float) -> float:
        """Return a number in [low, high], drawn on a logarithmic scale."""


class RandomChooser:
    """Independent uniform draws."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311  (a search, not a secret)

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options."""
        return self._random.choice(options)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""
        return self._random.choice(range(low, high + 1))

    def real(self, name: str, low: float, high: float) -> float:
        """Return a number in [low, high], uniform in its logarithm."""
        return float(low * (high / low) ** self._random.random())


class Holding:
    """A sampler that is asked only for what is not held.

    Args:
        chooser: The sampler.
        held: What is known, by the name of the parameter.
    """

    def __init__(self, chooser: Chooser, held: Mapping[str, str | int | float]) -> None:
        self._chooser, self._held = chooser, held

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options."""
        return str(self._held[name]) if name in self._held else self._chooser.choice(name, options)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""
        return int(self._held[name]) if name in self._held else self._chooser.integer(name, low, high)

    def real(self, name: str, low: float, high: float) -> float:
        """Return a number in [low, high]."""
        return float(self._held[name]) if name in self._held else self._chooser.real(name, low, high)


@dataclass(frozen=True)
class Knob:
    """A discrete knob of a method.

    Attributes:
        name: peft's name for it where peft has one.
        values: What it may be, in order.
        default: Its value where nothing is said.
        ordered: Whether neighbours in `values` behave alike (sizes do, flags do not).
        text: One line for people.
        low: For whole numbers: the least value a user may give beyond `values`; None admits `values` only.
        shapes: Whether the shape of any tensor depends on it. Costs are shared by candidates that differ in others.
        per_layer: Whether a size may differ between layers; not where it is of something that all layers share.
        between: For shares and ratios: the least and the greatest number a user may give beyond `values`.
    """

    name: str
    values: tuple[KnobValue, ...]
    default: KnobValue
    ordered: bool
    text: str
    low: int | None = None
    shapes: bool = True
    per_layer: bool = True
    between: tuple[float, float] | None = None

    @property
    def wider(self) -> str:
        """What a user may give beyond the values, in words; empty where it is nothing."""
        if self.between is not None:
            return f"any number from {self.between[0]} to {self.between[1]}, with a point"
        return f"any whole number from {self.low}" if self.low is not None else ""

    def require_per_layer(self, where: str) -> None:
        """Raise CandidateError unless this knob is a size that may differ between layers."""
        if self.low is None:
            raise CandidateError(f"{where}.{self.name} is not a size, so it cannot differ between layers")
        if not self.per_layer:
            raise CandidateError(f"{where}.{self.name} is one size for all layers, so it cannot differ between them")

    def check(self, where: str, value: KnobValue) -> None:
        """Raise CandidateError unless this knob may be set to `value`."""
        sized = isinstance(value, tuple) and self.low is not None and len(value) > 0
        if sized:
            self.require_per_layer(where)
        for one in value if sized else (value,):  # type: ignore[union-attr]
            if not self._admits(one):
                wider = f", or {self.wider}" if self.wider else ""
                raise CandidateError(
                    f"{where}.{self.name}: {one!r} is not one of {one_of(map(str, self.values))}{wider}"
                )

    def _admits(self, value: KnobValue) -> bool:
        if any(type(value) is type(known) and value == known for known in self.values):
            return True
        if self.between is not None:
            return isinstance(value, float) and self.between[0] <= value <= self.between[1]
        whole = isinstance(value, int) and not isinstance(value, bool)
        return self.low is not None and whole and self.low <= value <= 1_000_000  # type: ignore[operator]

    def narrowed(self, values: Sequence[KnobValue]) -> Knob:
        """Return this knob with other values to search over; its default is the nearest. Raises CandidateError."""
        for value in values:
            self.check("space", value)
        return replace(self, values=tuple(values), default=self._nearest(values))

    def _nearest(self, values: Sequence[KnobValue]) -> KnobValue:
        if self.default in values or not self.ordered:
            return self.default if self.default in values else values[0]
        wanted = self.default
        numbers = [value for value in values if isinstance(value, int | float)]
        if not numbers or not isinstance(wanted, int | float):
            return values[0]
        return min(numbers, key=lambda value: abs(value - wanted))

    def draw(self, name: str, chooser: Chooser) -> KnobValue:
        """Draw one value."""
        return draw_one(f"{name}.{self.name}", self.values, self.ordered, chooser)


def draw_one(name: str, values: tuple[_T, ...], ordered: bool, chooser: Chooser) -> _T:
    """Draw one of some values: by its index where they are ordered, by its text where they are not."""
    if len(values) == 1:
        return values[0]
    if ordered:
        return values[chooser.integer(f"{name}.index", 0, len(values) - 1)]
    texts = [str(value) for value in values]
    return values[texts.index(chooser.choice(name, texts))]


def encode_one(name: str, values: tuple[_T, ...], ordered: bool, value: _T) -> dict[str, str | int | float]:
    """Return the parameters from which `draw_one` draws `value`: what a sampler would have said. ValueError if none."""
    index = values.index(value)
    if len(values) == 1:
        return {}
    return {f"{name}.index": index} if ordered else {name: str(value)}


@dataclass(frozen=True)
class LogRange:
    """A positive number searched on a logarithmic scale, such as a learning rate."""

    low: float
    high: float
    default: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high and math.isfinite(self.high)):
            raise CandidateError(f"a range needs 0 < low <= high, not [{self.low}, {self.high}]")

    def narrowed(self, low: float, high: float) -> LogRange:
        """Return another range; its default is the old one where that is inside, else the middle in logarithm."""
        inside = low <= self.default <= high
        return LogRange(low, high, self.default if inside else _readable(math.sqrt(low * high), low, high))

    def draw(self, name: str, chooser: Chooser) -> float:
        """Draw a value, rounded to three significant digits so that people can read and repeat it."""
        if self.low == self.high:
            return self.low
        return _readable(chooser.real(name, self.low, self.high), self.low, self.high)


def _readable(value: float, low: float, high: float) -> float:
    """Return a value in [low, high] with three significant digits, where that is still inside."""
    return min(max(float(f"{value:.3g}"), low), high)


def sizes(
    name: str,
    values: tuple[int, ...],
    default: int,
    text: str,
    low: int = 1,
    *,
    shapes: bool = True,
    per_layer: bool = True,
) -> Knob:
    """Return a knob for a size: ordered whole numbers; users may give others from `low` on."""
    return Knob(name, values, default, ordered=True, text=text, low=low, shapes=shapes, per_layer=per_layer)


def shares(
    name: str,
    values: tuple[float, ...],
    default: float,
    text: str,
    between: tuple[float, float],
    *,
    shapes: bool = True,
) -> Knob:
    """Return a knob for a share or a ratio: ordered numbers; users may give others between two."""
    return Knob(name, values, default, ordered=True, text=text, shapes=shapes, between=between)


def flag(name: str, text: str, *, shapes: bool = True) -> Knob:
    """Return an on/off knob, off by default."""
    return Knob(name, (False, True), False, ordered=False, text=text, shapes=shapes)


def words(name: str, values: tuple[str, ...], text: str, *, shapes: bool = True) -> Knob:
    """Return a knob over words; the first is the default."""
    return Knob(name, values, values[0], ordered=False, text=text, shapes=shapes)
