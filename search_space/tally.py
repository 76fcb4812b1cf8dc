"""Trainable parameters of candidates, added up from what was counted once: exact, and fast enough to draw by.

An exact counter looks at the model and takes milliseconds. What a part brings to a layer depends on the layer's shape
and the part's knobs, so most parts are sums over their layers, and most candidates sums over their parts. Where layers
share something, each further layer of one shape mostly brings as much as the one before. Nothing of this is believed:
each method is tried against the counter on all layers, and each pair of methods once, on modules that they share and
on others; what does not add up is counted whole every time. Pairs are enough: parts of which no two train the same
number train the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations, starmap

from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.errors import PlacementError
from search_space.placement import Anatomy, Layers, Placement
from search_space.projections import MODULE
from search_space.registry import method

Count = Callable[[Candidate], int]
"""Returns the trainable parameters of a candidate without the head. Raises where the model cannot carry it."""

_Key = tuple[str, tuple[tuple[str, KnobValue], ...], tuple[str, ...]]

_LEAST_LAYERS = 3
"""Layers of one shape that a line through two must be tried on."""


class Tally:
    """Counts candidates on one model.

    Attributes:
        asked: How often the exact counter was asked.
        shapes: A number for each layer; layers of one number are alike.
    """

    def __init__(self, count: Count, anatomy: Anatomy) -> None:
        self.asked = 0
        self._count, self._anatomy = count, anatomy
        self.shapes = _shapes(anatomy)
        self._counts: dict[Layers, tuple[tuple[int, int], ...]] = {}
        self._one_layer: dict[tuple[_Key, int], int] = {}
        self._outside: dict[_Key, int] = {}
        self._whole: dict[tuple[Part, ...], int] = {}
        self._adds_up: dict[object, bool] = {}
        self._meetings: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}
        self._chosen: dict[Layers, frozenset[int]] = {}
        self._parts: dict[Part, int] = {}
        self._reaching: dict[tuple[str, ...], bool] = {}

    def __call__(self, candidate: Candidate) -> int:
        """Return the trainable parameters of a candidate, without the head.

        Raises:
            UnsupportedError, PlacementError: The model cannot carry it.
        """
        if len(candidate.parts) == 1:
            return self.part(candidate.parts[0])
        total = sum(map(self.part, candidate.parts))
        return (
            total if all(starmap(self._are_apart, combinations(candidate.parts, 2))) else self._exact(candidate.parts)
        )

    def _are_apart(self, one: Part, other: Part) -> bool:
        """Whether two parts bring together what each brings alone, tried with the first two of their kind."""
        key = (one.method, other.method, self._meet(one, other))
        if key not in self._adds_up:
            self._adds_up[key] = self._exact((one, other)) == self.part(one) + self.part(other)
        return self._adds_up[key]

    def _meet(self, one: Part, other: Part) -> bool:
        """Whether two parts may stand on the same modules; what has its own place may be anywhere."""
        words = (one.placement.projections, other.placement.projections)
        if words not in self._meetings:
            named = any(word.startswith(MODULE) for word in (*words[0], *words[1]))
            self._meetings[words] = named or not words[0] or not words[1] or bool({*words[0]} & {*words[1]})
        return self._meetings[words] and bool(self._on(one.placement.layers) & self._on(other.placement.layers))

    def _on(self, layers: Layers) -> frozenset[int]:
        if layers not in self._chosen:
            self._chosen[layers] = frozenset(layers.indices(self._anatomy.n_layers))
        return self._chosen[layers]

    def part(self, part: Part) -> int:
        """Return what a part brings when it is alone. Raises UnsupportedError or PlacementError."""
        if part not in self._parts:
            shaping = self._shaping(part)
            if self._is_sum(shaping):
                self._parts[part] = self._sum(shaping)
            else:
                along = self._along_layers(shaping)
                self._parts[part] = self._exact((shaping,)) if along is None else along
        return self._parts[part]

    def _is_sum(self, part: Part) -> bool:
        """Whether a method's numbers are a sum over layers, tried with its first part on all of them."""
        rule = method(part.method)
        if rule.route in ("head", "full") or not rule.placement.layers:
            return False
        kind = self._kind(part)
        if kind not in self._adds_up:
            least = tuple((name, min(value) if isinstance(value, tuple) else value) for name, value in part.knobs)
            wide = self._on_layers((part.method, least, part.placement.projections), range(self._anatomy.n_layers))
            try:
                self._adds_up[kind] = self._sum(wide) == self._exact((wide,))
            except PlacementError:  # some layers alone lack a projection that all of them together have
                self._adds_up[kind] = False
        return self._adds_up[kind]

    def _kind(self, part: Part) -> tuple[object, ...]:
        """Return what decides how a part's numbers add up: the method, its knobs but the sizes, and the projections."""
        sizes = {knob.name for knob in method(part.method).knobs if knob.low is not None}
        return part.method, tuple(pair for pair in part.knobs if pair[0] not in sizes), part.placement.projections

    def _along_layers(self, part: Part) -> int | None:
        """Return what a part brings where layers of one shape each bring as much as the one before, else None."""
        if not method(part.method).placement.layers or any(isinstance(value, tuple) for _, value in part.knobs):
            return None
        layers = part.placement.layers.indices(self._anatomy.n_layers)
        alike = [layer for layer, shape in enumerate(self.shapes) if shape == self.shapes[layers[0]]]
        if not {*layers} <= {*alike} or (part.placement.layers.kind == "all" and self._is_outside(part)):
            return None
        key = (part.method, part.knobs, part.placement.projections)
        most = len(alike) if len(layers) == self._anatomy.n_layers else min(len(alike), self._anatomy.n_layers - 1)
        if most < _LEAST_LAYERS:
            return None
        kind = ("along", self._kind(part), self.shapes[layers[0]], most)
        if kind not in self._adds_up:
            try:
                tried = [
                    (many, self._exact((self._on_layers(key, alike[:many]),)))
                    for many in (most, self._anatomy.n_layers // 2)
                ]
                self._adds_up[kind] = all(self._line(key, alike, many) == exact for many, exact in tried)
            except PlacementError:
                self._adds_up[kind] = False
        return self._line(key, alike, len(layers)) if self._adds_up[kind] else None

    def _line(self, key: _Key, alike: list[int], many: int) -> int:
        """Return what some of the layers of one shape bring, if the second brings as much as each after it."""
        one, two = (self._exact((self._on_layers(key, alike[:first]),)) for first in (1, 2))
        return one + (many - 1) * (two - one)

    def _sum(self, part: Part) -> int:
        total = self._beside_layers(part) if part.placement.layers.kind == "all" else 0
        if not any(isinstance(value, tuple) for _, value in part.knobs):
            key = (part.method, part.knobs, part.placement.projections)
            return total + sum(many * self._on_layer(key, layer) for layer, many in self._alike(part.placement.layers))
        layers = part.placement.layers.indices(self._anatomy.n_layers)
        spread = {name: value for name, value in part.knobs if isinstance(value, tuple)}
        rows = list(zip((self.shapes[layer] for layer in layers), *spread.values(), strict=True))
        for alike, many in Counter(rows).items():
            sizes = dict(zip(spread, alike[1:], strict=True))
            knobs = tuple((name, sizes.get(name, value)) for name, value in part.knobs)
            key = (part.method, knobs, part.placement.projections)
            total += many * self._on_layer(key, layers[rows.index(alike)])
        return total

    def _alike(self, layers: Layers) -> tuple[tuple[int, int], ...]:
        """Return one of the layers of each shape, and how many there are."""
        if layers not in self._counts:
            firsts: dict[int, int] = {}
            many: dict[int, int] = {}
            for layer in layers.indices(self._anatomy.n_layers):
                shape = self.shapes[layer]
                firsts.setdefault(shape, layer)
                many[shape] = many.get(shape, 0) + 1
            self._counts[layers] = tuple((firsts[shape], many[shape]) for shape in firsts)
        return self._counts[layers]

    def _on_layer(self, key: _Key, layer: int) -> int:
        place = (key, self.shapes[layer])
        if place not in self._one_layer:
            part = self._on_layers(key, (layer,))
            self._one_layer[place] = self._exact((part,)) if self._is_there(part) else 0
        return self._one_layer[place]

    def _on_layers(self, key: _Key, layers: Iterable[int]) -> Part:
        name, knobs, projections = key
        chosen = set(layers)
        bits = tuple(int(one in chosen) for one in range(self._anatomy.n_layers))
        return Part(name, knobs, Placement(projections, Layers("bits", bits)))

    def _is_there(self, part: Part) -> bool:
        """Whether a layer has any of the part's projections; not all layers of all models have all."""
        wanted, layers = set(part.placement.projections), part.placement.layers.indices(self._anatomy.n_layers)
        sites = (site for site in self._anatomy.sites if site.layer in layers)
        return not wanted or any(site.carries(wanted) for site in sites)

    def _beside_layers(self, part: Part) -> int:
        """Return what a part on all layers brings to modules outside of them: embeddings, the last norm."""
        if not self._is_outside(part):
            return 0
        least = tuple((name, min(value) if isinstance(value, tuple) else value) for name, value in part.knobs)
        key = (part.method, least, part.placement.projections)
        if key not in self._outside:
            everywhere = Part(part.method, least, part.placement)
            inside = replace(everywhere.placement, layers=Layers("bits", (1,) * self._anatomy.n_layers))
            self._outside[key] = self._exact((everywhere,)) - self._sum(replace(everywhere, placement=inside))
        return self._outside[key]

    def _is_outside(self, part: Part) -> bool:
        """Whether modules outside of the layers have any of the part's projections."""
        wanted = part.placement.projections
        if wanted not in self._reaching:
            outside = (site for site in self._anatomy.sites if site.layer is None)
            self._reaching[wanted] = any(site.carries(set(wanted)) for site in outside)
        return self._reaching[wanted]

    def _exact(self, parts: tuple[Part, ...]) -> int:
        if parts not in self._whole:
            self.asked += 1
            rates = tuple(method(part.method).learning_rate.default for part in parts)
            self._whole[parts] = self._count(Candidate(parts, Recipe(rates)))
        return self._whole[parts]

    def _shaping(self, part: Part) -> Part:
        """Return a part with the knobs that change no shape at their defaults."""
        shapeless = {knob.name: knob.default for knob in method(part.method).knobs if not knob.shapes}
        return replace(part, knobs=tuple({**dict(part.knobs), **shapeless}.items())) if shapeless else part


def _shapes(anatomy: Anatomy) -> tuple[int, ...]:
    """Return a number for each layer; layers of one number have modules of the same kinds, names and widths."""
    numbers: dict[object, int] = {}
    widths = {block.layer: (block.stack, block.hidden_size) for block in anatomy.blocks}
    shapes = []
    for layer in range(anatomy.n_layers):
        sites = tuple(
            (site.kind, site.projections, site.in_features, site.out_features, site.has_bias)
            for site in anatomy.sites
            if site.layer == layer
        )
        shapes.append(numbers.setdefault((widths.get(layer), sites), len(numbers)))
    return tuple(shapes)
