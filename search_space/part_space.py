"""What can be drawn for one part of a candidate: a method, its knobs, where it goes, its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from search_space.candidate import KnobValue, Part
from search_space.knobs import Chooser, Knob, LogRange, draw_one, encode_one
from search_space.layer_choice import LayerChoice
from search_space.placement import Layers, Placement
from search_space.registry import Method
from search_space.spread import SpreadKnob

Drawn = tuple[Part, float]
"""A part and its learning rate."""


@dataclass(frozen=True)
class PartSpace:
    """What can be drawn for one part on one model.

    Attributes:
        rule: Its method.
        knobs: Its knobs, with the values that are searched.
        spreads: Those of its knobs whose sizes differ between layers.
        projections: Sets of projections, in notation; one empty text where the method has its own place.
        layers: Which layers; None where the hybrid draws them for all of its parts.
        learning_rate: Range, searched on a logarithmic scale.
        absence: Name of the knob for which 0 was listed, which leaves the part out; empty where there is none.
    """

    rule: Method
    knobs: tuple[Knob, ...]
    projections: tuple[str, ...]
    layers: LayerChoice | None
    learning_rate: LogRange
    absence: str = ""
    spreads: tuple[SpreadKnob, ...] = ()

    @property
    def size(self) -> int:
        """Number of different parts where the layers are its own, being left out not counted."""
        layers = self.layers or LayerChoice.of(("all",), 1)
        return layers.total(self.size_on, apart=self.apart)

    @property
    def apart(self) -> bool:
        """Whether it matters which layers are chosen, and not only how many, to the number of parts."""
        return any(one.spread.per != "layer" for one in self.spreads)

    def size_on(self, layers: Layers) -> int:
        """Number of different parts on some layers."""
        sizes = (one.size(layers) for one in self.spreads)
        return math.prod([*(len(knob.values) for knob in self.knobs), len(self.projections), *sizes])

    @property
    def optional(self) -> bool:
        """Whether the part may be left out of its hybrid."""
        return bool(self.absence) or (self.layers is not None and self.layers.optional)

    def draw(self, name: str, chooser: Chooser, shared: Layers | None = None) -> Drawn | None:
        """Draw a part and its learning rate, or None where it is left out: then nothing else of it is drawn.

        Args:
            name: What the names of its parameters start with.
            chooser: The sampler.
            shared: The layers, where the hybrid drew them for all of its parts.
        """
        given: dict[str, KnobValue] = {}
        for knob in self.knobs:
            if knob.name == self.absence:
                index = chooser.integer(f"{name}.{knob.name}.index", 0, len(knob.values))
                if index == 0:
                    return None
                given[knob.name] = knob.values[index - 1]
        layers = shared
        if self.layers is not None and self.layers.optional:
            layers = self.layers.draw(name, chooser)
            if layers is None:
                return None
        knobs = [(one.name, given[one.name] if one.name in given else one.draw(name, chooser)) for one in self.knobs]
        projections = draw_one(f"{name}.projections", self.projections, False, chooser)
        if layers is None and self.layers is not None:
            layers = self.layers.draw(name, chooser)
        layers = layers or Layers()
        knobs += [(one.name, one.draw(name, chooser, layers)) for one in self.spreads]
        rate = self.learning_rate.draw(f"{name}.learning_rate", chooser)
        return Part(self.rule.name, tuple(knobs), placement_of(projections, layers)), rate

    def default(self, shared: Layers | None = None) -> Drawn:
        """Return the method at its defaults, as near as this space comes to them."""
        wanted = self.rule.placement.default
        projections = str(Placement(wanted.projections)) if wanted.projections else ""
        chosen = projections if projections in self.projections else self.projections[0]
        layers = shared if self.layers is None else self.layers.default(wanted.layers)
        layers = layers or Layers()
        knobs = [(one.name, one.default) for one in self.knobs] + [
            (one.name, one.first(layers)) for one in self.spreads
        ]
        return Part(self.rule.name, tuple(knobs), placement_of(chosen, layers)), self.learning_rate.default

    def encode(self, name: str, drawn: Drawn | None) -> dict[str, str | int | float]:
        """Return the parameters that `draw` would need to draw this part. ValueError when it is not in the space."""
        if drawn is None:
            return self._encode_absence(name)
        part, rate = drawn
        parameters: dict[str, str | int | float] = {}
        for knob in self.knobs:
            if knob.name == self.absence:
                parameters[f"{name}.{knob.name}.index"] = knob.values.index(part[knob.name]) + 1
            else:
                parameters |= encode_one(f"{name}.{knob.name}", knob.values, knob.ordered, part[knob.name])
        for one in self.spreads:
            parameters |= one.encode(name, part[one.name], part.placement.layers)
        projections = str(Placement(part.placement.projections)) if part.placement.projections else ""
        parameters |= encode_one(f"{name}.projections", self.projections, False, projections)
        if self.layers is not None:
            parameters |= self.layers.encode(name, part.placement.layers)
        if not self.learning_rate.low <= rate <= self.learning_rate.high:
            raise ValueError(f"{name}.learning_rate {rate} is outside the space")
        fixed = self.learning_rate.low == self.learning_rate.high
        return parameters if fixed else {**parameters, f"{name}.learning_rate": rate}

    def _encode_absence(self, name: str) -> dict[str, str | int | float]:
        if self.absence:
            return {f"{name}.{self.absence}.index": 0}
        if self.layers is None or not self.layers.optional:
            raise ValueError(f"{name} is missing, and the space never leaves it out")
        return self.layers.encode(name, None)


@cache
def _projections(text: str) -> tuple[str, ...]:
    return Placement.parse(text).projections if text else ()


def placement_of(projections: str, layers: Layers) -> Placement:
    """Return a placement from projections in notation, or an empty text, and layers."""
    return Placement(_projections(projections), layers)
