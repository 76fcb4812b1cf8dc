"""One kind of candidate: a method alone or a hybrid, and what can be drawn of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search_space.knobs import Chooser
from search_space.layer_choice import LayerChoice
from search_space.part_space import Drawn, PartSpace

Parameters = dict[str, str | int | float]
"""What a sampler says, by the name of the parameter."""


@dataclass(frozen=True)
class Composition:
    """Parts that are drawn together, in the order in which they are attached.

    Attributes:
        name: Its methods joined by ` + `, or the name that a hybrid was given.
        parts: Each part under the name that its parameters start with.
        layers: The layers of all parts, where they share one choice.
    """

    name: str
    parts: tuple[tuple[str, PartSpace], ...]
    layers: LayerChoice | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of its parts, in order."""
        return tuple(part.rule.name for _, part in self.parts)

    @property
    def size(self) -> int:
        """Number of different candidates, recipes aside. At least one part is in each."""
        none = all(part.optional for _, part in self.parts)
        if self.layers is None:
            return math.prod(part.size + part.optional for _, part in self.parts) - none
        apart = any(part.apart for _, part in self.parts)
        return self.layers.total(
            lambda on: math.prod(part.size_on(on) + part.optional for _, part in self.parts) - none, apart=apart
        )

    def draw(self, chooser: Chooser) -> tuple[tuple[PartSpace, Drawn], ...]:
        """Draw the parts, each with where it is drawn from.

        Where every one is left out, the first is meant, at its defaults: every draw is valid.
        """
        shared = self.layers.draw(self.name, chooser) if self.layers is not None else None
        drawn = [(part, part.draw(label, chooser, shared)) for label, part in self.parts]
        first = self.parts[0][1]
        return tuple((part, one) for part, one in drawn if one is not None) or ((first, first.default(shared)),)

    def default(self) -> tuple[Drawn, ...]:
        """Return all parts at their defaults, as near as this space comes to them."""
        wanted = self.parts[0][1].rule.placement.default.layers
        shared = self.layers.default(wanted) if self.layers is not None else None
        return tuple(part.default(shared) for _, part in self.parts)

    def encode(self, drawn: Sequence[Drawn]) -> Parameters:
        """Return the parameters from which `draw` draws these parts. ValueError when they are not in the space."""
        parameters: Parameters = {}
        if self.layers is not None:
            first, *others = [part.placement.layers for part, _ in drawn]
            if any(layers != first for layers in others):
                raise ValueError(f"{self.name}: all parts are put on the same layers")
            parameters |= self.layers.encode(self.name, first)
        for _, _, one in _match(self.parts, drawn, self.name):
            parameters |= one
        return parameters

    def spaces_of(self, drawn: Sequence[Drawn]) -> tuple[PartSpace, ...]:
        """Return where each of some parts was drawn from. ValueError when they are not in the space."""
        return tuple(space for space, one, _ in _match(self.parts, drawn, self.name) if one is not None)


_Matched = tuple[PartSpace, Drawn | None, Parameters]


def _match(spaces: Sequence[tuple[str, PartSpace]], drawn: Sequence[Drawn], name: str) -> tuple[_Matched, ...]:
    """Find which part is which, where some may have been left out, with the parameters of each."""
    if not spaces:
        if drawn:
            raise ValueError(f"{name}: {drawn[0][0].method} is not in the space there")
        return ()
    (label, space), rest = spaces[0], spaces[1:]
    problem = ValueError(f"{name}: {label} is missing, and the space never leaves it out")
    if drawn and drawn[0][0].method == space.rule.name:
        try:
            own: _Matched = (space, drawn[0], space.encode(label, drawn[0]))
            return (own, *_match(rest, drawn[1:], name))
        except ValueError as error:
            problem = error
    if not space.optional:
        raise problem
    return ((space, None, space.encode(label, None)), *_match(rest, drawn, name))
