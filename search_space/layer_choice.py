"""Which layers may be drawn: one of some selectors, or any subset, as one bit for each layer or group of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from search_space.errors import CandidateError, PlacementError
from search_space.knobs import Chooser, draw_one, encode_one
from search_space.layers import Layers, group_sizes

NONE = "none"
SUBSET = "subset"
_MOST_UNITS = 12


@dataclass(frozen=True)
class LayerChoice:
    """What can be drawn as the layers of a part, or of all parts of a hybrid.

    Attributes:
        options: Selectors to choose from, in order; empty where any subset may be drawn.
        units: For subsets: the layers that each bit stands for, in order; empty where selectors are listed.
        n_layers: Layers of the model.
        optional: Whether no layer at all may be drawn, which leaves the part out.
    """

    options: tuple[Layers, ...]
    units: tuple[tuple[int, ...], ...]
    n_layers: int
    optional: bool = False

    @classmethod
    def of(cls, texts: Sequence[str] | None, n_layers: int) -> LayerChoice:
        """Read what a spec says; without it `top:1` to `all` are offered.

        Raises:
            PlacementError: The model does not have these layers.
        """
        if texts is None:
            return cls((*(Layers("top", (count,)) for count in range(1, n_layers)), Layers()), (), n_layers)
        optional, given = NONE in texts, [text for text in texts if text != NONE]
        for text in given:
            if is_subset(text):
                return cls((), _units(groups_of(text), n_layers), n_layers, optional)
        options = tuple(map(Layers.parse, given))
        for one in options:
            one.indices(n_layers)
        return cls(options, (), n_layers, optional)

    @property
    def size(self) -> int:
        """Number of different choices, having none not counted."""
        return len(self.options) or 2 ** len(self.units) - 1

    def total(self, size_on: Callable[[Layers], int], *, apart: bool) -> int:
        """Return the sum of something over all choices.

        Args:
            size_on: What is summed.
            apart: Whether it depends on which layers are chosen; else on how many only.

        Raises:
            CandidateError: There are too many choices to look at each.
        """
        count = len(self.units)
        if self.options:
            return sum(map(size_on, self.options))
        if not apart and count == self.n_layers:
            chosen = ([1] * many + [0] * (count - many) for many in range(1, count + 1))
            return sum(math.comb(count, sum(bits)) * size_on(self._bits(bits)) for bits in chosen)
        if count > _MOST_UNITS:
            raise CandidateError(
                f"sizes per group go with listed layers, or with 'subset:4'; any subset of {count} layers is too many"
            )
        return sum(size_on(self._bits(bits)) for bits in product((0, 1), repeat=count) if any(bits))

    def draw(self, name: str, chooser: Chooser) -> Layers | None:
        """Draw layers; `name` starts the names of the parameters. None where the part is left out.

        Every parameter is drawn every time, always with the same domain, which is what samplers model well. Where no
        bit is drawn and none may not be, the last unit is meant: so every draw is valid.
        """
        if self.options:
            return draw_one(f"{name}.layers", self._listed, True, chooser)
        bits = [chooser.integer(bit, 0, 1) for bit in self._names(name)]
        if not any(bits):
            if self.optional:
                return None
            bits[-1] = 1
        return self._bits(bits)

    def encode(self, name: str, layers: Layers | None) -> dict[str, str | int | float]:
        """Return the parameters from which `draw` draws these layers. ValueError when they are not offered."""
        if self.options:
            return encode_one(f"{name}.layers", self._listed, True, layers)
        bits = self._drawn(layers)
        if not (any(bits) or self.optional) or (layers is not None and self._bits(bits) != layers):
            raise ValueError(f"{name}.layers {layers} is not in the space")
        return dict(zip(self._names(name), bits, strict=True))

    def default(self, wanted: Layers) -> Layers:
        """Return the wanted layers where they are offered, else the most that is."""
        if self.units:
            return self._bits([1] * len(self.units))
        return wanted if wanted in self.options else self.options[-1]

    def smallest(self) -> Iterator[Layers]:
        """Yield what everything that can be drawn is made of: each selector, or each unit alone."""
        yield from self.options
        for unit in range(len(self.units)):
            yield self._bits([int(unit == one) for one in range(len(self.units))])

    @cached_property
    def _listed(self) -> tuple[Layers | None, ...]:
        return (None, *self.options) if self.optional else self.options

    def _names(self, name: str) -> list[str]:
        return [f"{name}.layers.{unit}" for unit in self._numbers]

    @cached_property
    def _numbers(self) -> list[str]:
        whole = all(len(unit) == 1 for unit in self.units)
        return [str(unit) if whole else f"group{unit + 1}" for unit in range(len(self.units))]

    def _bits(self, bits: Sequence[int]) -> Layers:
        chosen = {layer for unit, bit in zip(self.units, bits, strict=True) if bit for layer in unit}
        return Layers("bits", tuple(int(layer in chosen) for layer in range(self.n_layers)))

    def _drawn(self, layers: Layers | None) -> list[int]:
        if layers is None:
            return [0] * len(self.units)
        chosen = set(layers.indices(self.n_layers))
        return [int(unit[0] in chosen) for unit in self.units]


def is_subset(text: str) -> bool:
    """Whether a text asks for any subset of the layers: `subset`, or `subset:4` for four groups of them."""
    return text.partition(":")[0] == SUBSET


def reaches_beyond(text: str, n_layers: int) -> bool:
    """Whether a text names layers that a model of so many layers does not have."""
    if text == NONE or is_subset(text):
        return False
    try:
        Layers.parse(text).indices(n_layers)
    except PlacementError:
        return True
    return False


def groups_of(text: str) -> int | None:
    """Return the number of groups in `subset:4`; None in `subset`. Raises CandidateError."""
    _, colon, count = text.partition(":")
    if not colon:
        return None
    if not (count.isascii() and count.isdecimal() and len(count) <= 4 and int(count) > 0):
        raise CandidateError(f"{text!r} is not a choice of layers; write 'subset', or 'subset:4' for four groups")
    return int(count)


def _units(groups: int | None, n_layers: int) -> tuple[tuple[int, ...], ...]:
    if groups is None:
        return tuple((layer,) for layer in range(n_layers))
    if groups > n_layers:
        raise PlacementError(f"{groups} groups need at least as many layers, the model has {n_layers}")
    sizes = group_sizes(n_layers, groups)
    starts = [sum(sizes[:group]) for group in range(groups)]
    return tuple(tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True))
