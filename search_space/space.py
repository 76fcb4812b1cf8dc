"""A space bound to a model: what can be drawn, how much there is, and the drawing itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from search_space.candidate import Candidate, Part, Recipe
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError
from search_space.hybrids import require_sharing
from search_space.knobs import Chooser, Knob, LogRange, draw_one, encode_one
from search_space.placement import Anatomy, Layers, Placement, Site
from search_space.recipes import AT_DEFAULTS, RecipeSpace
from search_space.registry import Method, Targets, method
from search_space.spec import MethodSpec, SpaceSpec, presets


@dataclass(frozen=True)
class MethodSpace:
    """What can be drawn for one method on one model."""

    rule: Method
    knobs: tuple[Knob, ...]
    projections: tuple[str, ...]
    layers: tuple[str, ...]
    learning_rate: LogRange

    @property
    def size(self) -> int:
        """Number of different parts."""
        return math.prod([*(len(knob.values) for knob in self.knobs), len(self.projections), len(self.layers)])

    def draw(self, name: str, chooser: Chooser) -> tuple[Part, float]:
        """Draw a part and its learning rate; `name` starts the names of the parameters."""
        knobs = tuple((knob.name, knob.draw(name, chooser)) for knob in self.knobs)
        projections = draw_one(f"{name}.projections", self.projections, False, chooser)
        layers = draw_one(f"{name}.layers", self.layers, True, chooser)
        rate = self.learning_rate.draw(f"{name}.learning_rate", chooser)
        return Part(self.rule.name, knobs, _placement(projections, layers)), rate

    def default(self) -> tuple[Part, float]:
        """Return the method at its defaults, as near as this space comes to them."""
        wanted = self.rule.placement.default
        projections = str(Placement(wanted.projections)) if wanted.projections else ""
        chosen = projections if projections in self.projections else self.projections[0]
        layers = str(wanted.layers) if str(wanted.layers) in self.layers else self.layers[-1]
        knobs = tuple((knob.name, knob.default) for knob in self.knobs)
        return Part(self.rule.name, knobs, _placement(chosen, layers)), self.learning_rate.default

    def encode(self, name: str, part: Part, rate: float) -> dict[str, str | int | float]:
        """Return the parameters that `draw` would need to draw this part. ValueError when it is not in the space."""
        parameters: dict[str, str | int | float] = {}
        for knob in self.knobs:
            parameters |= encode_one(f"{name}.{knob.name}", knob.values, knob.ordered, part[knob.name])
        projections = str(Placement(part.placement.projections)) if part.placement.projections else ""
        parameters |= encode_one(f"{name}.projections", self.projections, False, projections)
        parameters |= encode_one(f"{name}.layers", self.layers, True, str(part.placement.layers))
        if not self.learning_rate.low <= rate <= self.learning_rate.high:
            raise ValueError(f"{name}.learning_rate {rate} is outside the space")
        return parameters | (
            {} if self.learning_rate.low == self.learning_rate.high else {f"{name}.learning_rate": rate}
        )


@dataclass(frozen=True)
class Space:
    """Every candidate that a study may try on its model.

    Attributes:
        compositions: The methods of each kind of candidate: one for a plain method, more for a hybrid.
        methods: What can be drawn for each method.
        anatomy: The model.
        recipe: What can be drawn of the recipe.
    """

    compositions: tuple[tuple[str, ...], ...]
    methods: dict[str, MethodSpace]
    anatomy: Anatomy
    recipe: RecipeSpace = AT_DEFAULTS

    @property
    def size(self) -> int:
        """Number of candidates that differ in more than their learning rates."""
        architectures = sum(math.prod(self.methods[name].size for name in names) for names in self.compositions)
        return architectures * self.recipe.size

    def draw(self, chooser: Chooser) -> Candidate:
        """Draw one candidate. Hybrids share the parameters of their methods, so that what is learnt is shared."""
        texts = tuple(" + ".join(names) for names in self.compositions)
        names = self.compositions[texts.index(draw_one("composition", texts, False, chooser))]
        drawn = [self.methods[name].draw(label, chooser) for name, label in _labels(names)]
        recipe = self.recipe.draw(tuple(rate for _, rate in drawn), chooser)
        return Candidate(tuple(part for part, _ in drawn), recipe)

    def first(self) -> Candidate:
        """Return the candidate that a study starts with: plain LoRA where it is in the space."""
        names = ("lora",) if ("lora",) in self.compositions else self.compositions[0]
        defaults = [self.methods[name].default() for name in names]
        recipe = self.recipe.default(tuple(rate for _, rate in defaults))
        return Candidate(tuple(part for part, _ in defaults), recipe)

    def encode(self, candidate: Candidate) -> dict[str, str | int | float]:
        """Return the parameters from which `draw` draws this candidate. ValueError when it is not in the space."""
        names = tuple(part.method for part in candidate.parts)
        if names not in self.compositions:
            raise ValueError(f"{candidate.method!r} is not in the space")
        texts = tuple(" + ".join(one) for one in self.compositions)
        parameters = encode_one("composition", texts, False, candidate.method)
        labelled = zip(_labels(names), candidate.parts, candidate.recipe.learning_rates, strict=True)
        for (name, label), part, rate in labelled:
            parameters |= self.methods[name].encode(label, part, rate)
        return parameters | self.recipe.encode(candidate.recipe)


def at_defaults(name: str) -> Candidate:
    """Return a method with everything at its own defaults, whatever the space: a fixed row beside a search."""
    rule = method(name)
    return Candidate((rule.default_part(),), Recipe((rule.learning_rate.default,)))


def bind(spec: SpaceSpec, anatomy: Anatomy) -> Space:
    """Make the space of a study for one model.

    Raises:
        PlacementError: A placement that the user wrote matches nothing in this model.
        UnsupportedError: Two methods of a hybrid cannot share a model, or not the modules that both may go on.
        EmptySpaceError: Nothing is left.
    """
    base = presets()[spec.preset]
    given = spec.methods if spec.methods is not None else _preset_methods(spec.preset)
    hybrids = _hybrids(spec, tuple(base["hybrids"]), tuple(given))
    wanted = {name: given.get(name) or MethodSpec() for names in (given, *hybrids) for name in names}
    spaces = {name: _bind_method(method(name), one, anatomy) for name, one in _carried(spec, wanted, anatomy)}
    compositions = tuple(names for names in (*((name,) for name in given), *hybrids) if set(names) <= set(spaces))
    if not compositions:
        raise EmptySpaceError("space: no method is left; list at least one under space.methods")
    for names in hybrids:
        if names in compositions:
            require_sharing(names, partial(_overlap, spaces, anatomy))
    return Space(compositions, spaces, anatomy, RecipeSpace.of(spec.recipe))


def resolve(part: Part, anatomy: Anatomy) -> Targets:
    """Find where a part goes in a model.

    Raises:
        PlacementError: It matches nothing.
        UnsupportedError: It matches modules that the method cannot wrap.
    """
    rule = method(part.method)
    layers = part.placement.layers.indices(anatomy.n_layers)
    if rule.placement.fixed:
        return Targets((), layers, anatomy)
    sites = anatomy.resolve(part.placement)
    refused = [site for site in sites if site.kind not in rule.placement.kinds]
    if refused:
        raise UnsupportedError(
            f"{part.method} cannot wrap {refused[0].name} (a {refused[0].kind} module); "
            f"it wraps {', '.join(rule.placement.kinds)}"
        )
    return Targets(sites, layers, anatomy)


def _carried(spec: SpaceSpec, wanted: dict[str, MethodSpec], anatomy: Anatomy) -> Iterator[tuple[str, MethodSpec]]:
    """Yield what the model can carry; what the user wrote is not left out but refused later."""
    written = {*(spec.methods or ()), *(name for text in spec.hybrids or () for name in text.split(" + "))}
    for name, one in wanted.items():
        if name not in written:
            try:
                _bind_method(method(name), one, anatomy)
            except (PlacementError, UnsupportedError):
                continue
        yield name, one


def _overlap(spaces: dict[str, MethodSpace], anatomy: Anatomy, first: str, second: str) -> bool:
    """Whether two methods may be put on the same modules; those that have their own place may be anywhere."""
    one, other = (_reach(spaces[name], anatomy) for name in (first, second))
    return one is None or other is None or bool(one & other)


def _reach(space: MethodSpace, anatomy: Anatomy) -> set[str] | None:
    if space.rule.placement.fixed:
        return None
    placements = (_placement(text, layers) for text in space.projections for layers in space.layers)
    return {site.name for placement in placements for site in _sites(placement, anatomy)}


def _sites(placement: Placement, anatomy: Anatomy) -> tuple[Site, ...]:
    try:
        return anatomy.resolve(placement)
    except PlacementError:  # drawn all the same, and told as infeasible: not these projections in these layers
        return ()


def _preset_methods(preset: str) -> dict[str, MethodSpec]:
    return SpaceSpec(preset=preset, methods=presets()[preset]["methods"]).methods or {}


def _hybrids(spec: SpaceSpec, preset: tuple[str, ...], searched: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    if spec.hybrids is not None:
        return tuple(tuple(text.split(" + ")) for text in spec.hybrids)
    split = [tuple(text.split(" + ")) for text in preset]
    return tuple(names for names in split if set(names) <= set(searched))


def _bind_method(rule: Method, given: MethodSpec, anatomy: Anatomy) -> MethodSpace:
    knobs = tuple(knob.narrowed(given.knobs[knob.name]) if knob.name in given.knobs else knob for knob in rule.knobs)
    rate = rule.learning_rate.narrowed(*given.learning_rate) if given.learning_rate else rule.learning_rate
    layers = _layers(rule, given, anatomy)
    projections = ("",) if rule.placement.fixed else tuple(_projections(rule, given, layers, anatomy))
    return MethodSpace(rule, knobs, projections, layers, rate)


def _layers(rule: Method, given: MethodSpec, anatomy: Anatomy) -> tuple[str, ...]:
    if not rule.placement.layers:
        return ("all",)
    if given.layers is None:
        return (*(f"top:{count}" for count in range(1, anatomy.n_layers)), "all")
    for text in given.layers:
        Layers.parse(text).indices(anatomy.n_layers)
    return given.layers


def _projections(rule: Method, given: MethodSpec, layers: tuple[str, ...], anatomy: Anatomy) -> Iterator[str]:
    """Yield the sets of projections that match this model; what the user wrote must match."""
    options = given.projections or rule.placement.projections
    matched = 0
    for text in options:
        try:
            resolve(Part(rule.name, (), _placement(text, layers[-1])), anatomy)
        except (PlacementError, UnsupportedError):
            if given.projections:
                raise
            continue
        matched += 1
        yield text
    if not matched:
        raise PlacementError(f"space.methods.{rule.name}: none of {', '.join(options)} is in {anatomy.architecture}")


def _placement(projections: str, layers: str) -> Placement:
    chosen = Placement.parse(projections).projections if projections else ()
    return Placement(chosen, Layers.parse(layers))


def _labels(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield each method with the start of its parameters' names; a method's second use gets its own."""
    for position, name in enumerate(names):
        earlier = names[:position].count(name)
        yield name, f"{name}.{earlier + 1}" if earlier else name
