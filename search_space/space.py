"""A space bound to a model: what can be drawn, how much there is, and the drawing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.carrying import (
    instead_of,
    require_carried,
    require_per_task,
    require_quantised,
    require_setting,
    require_several_tasks,
)
from search_space.compositions import Composition
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError
from search_space.hybrid_spec import HybridSpec
from search_space.hybrids import require_sharing
from search_space.knobs import Chooser, Knob, draw_one, encode_one
from search_space.layer_choice import LayerChoice, reaches_beyond
from search_space.method_spec import MethodSpec, PartSpec, absence_of
from search_space.part_space import Drawn, PartSpace, placement_of
from search_space.placement import Anatomy, Layers, Placement, Site
from search_space.recipes import AT_DEFAULTS, RecipeSpace
from search_space.registry import PER_TASK, Method, Targets, is_choice, method
from search_space.spec import SpaceSpec, presets
from search_space.spread import Spread, SpreadKnob, require_size_for_each_layer


@dataclass(frozen=True)
class Space:
    """Every candidate that a study may try on its model.

    Attributes:
        compositions: Each kind of candidate: a method alone, or a hybrid.
        anatomy: The model.
        recipe: What can be drawn of the recipe.
    """

    compositions: tuple[Composition, ...]
    anatomy: Anatomy
    recipe: RecipeSpace = AT_DEFAULTS

    @property
    def size(self) -> int:
        """Number of candidates that differ in more than their learning rates; each composition is counted apart."""
        return sum(one.size for one in self.compositions) * self.recipe.size

    @property
    def parts(self) -> dict[str, PartSpace]:
        """What can be drawn for each part, by the name that its parameters start with."""
        return {label: part for one in self.compositions for label, part in one.parts}

    def draw(self, chooser: Chooser) -> Candidate:
        """Draw one candidate. Hybrids share the parameters of their methods, so that what is learnt is shared."""
        return self.draw_with_spaces(chooser)[0]

    def draw_with_spaces(self, chooser: Chooser) -> tuple[Candidate, tuple[PartSpace, ...]]:
        """Draw one candidate, and say where each of its parts is drawn from."""
        name = draw_one("composition", tuple(one.name for one in self.compositions), False, chooser)
        composition = next(one for one in self.compositions if one.name == name)
        spaces, drawn = zip(*composition.draw(chooser), strict=True)
        return self._candidate(drawn, partial(self.recipe.draw, chooser=chooser)), spaces

    def usual(self) -> Candidate:
        """Return what people would try first: plain LoRA where it is in the space, else the first method's defaults."""
        return self.plain_lora() or self._at_defaults(self.compositions[0])

    def plain_lora(self) -> Candidate | None:
        """Return LoRA at its defaults, as near as this space comes to them; None where the space has no LoRA alone."""
        return next((self._at_defaults(one) for one in self.compositions if one.name == "lora"), None)

    def spaces_of(self, candidate: Candidate) -> tuple[PartSpace, ...] | None:
        """Return where each part of a candidate was drawn from; None when it is not in the space."""
        drawn = tuple(zip(candidate.parts, candidate.recipe.learning_rates, strict=True))
        for one in self.compositions:
            with suppress(ValueError):
                return one.spaces_of(drawn)
        return None

    def encode(self, candidate: Candidate) -> dict[str, str | int | float]:
        """Return the parameters from which `draw` draws this candidate. ValueError when it is not in the space."""
        drawn = tuple(zip(candidate.parts, candidate.recipe.learning_rates, strict=True))
        names = tuple(one.name for one in self.compositions)
        problem = ValueError(f"{candidate.method!r} is not in the space")
        for one in self.compositions:
            try:
                parts = one.encode(drawn)
            except ValueError as error:
                problem = error if one.methods == tuple(part.method for part in candidate.parts) else problem
                continue
            chosen = encode_one("composition", names, False, one.name)
            return chosen | parts | self.recipe.encode(candidate.recipe)
        raise problem

    def _at_defaults(self, composition: Composition) -> Candidate:
        return self._candidate(composition.default(), self.recipe.default)

    def _candidate(self, drawn: tuple[Drawn, ...], recipe: Callable[[tuple[float, ...]], Recipe]) -> Candidate:
        return Candidate(tuple(part for part, _ in drawn), recipe(tuple(rate for _, rate in drawn)))


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
    given = spec.methods if spec.methods is not None else _preset_methods(spec.preset)
    hybrids = spec.hybrids if spec.hybrids is not None else _preset_hybrids(spec.preset, tuple(given))
    own = _with_own_parts(hybrids, anatomy, written=spec.hybrids is not None)
    dropped: list[str] = []
    compositions = (*_alone_and_together(spec, given, hybrids, anatomy, dropped), *own)
    if not compositions:
        why = f": {anatomy.architecture} carries none of the preset's, such as {dropped[0]}" if dropped else ""
        raise EmptySpaceError(f"space: no method is left; list at least one under space.methods{why}")
    for one in compositions:
        require_sharing(one.methods, partial(_overlap, one, anatomy), anatomy.architecture)
    return Space(compositions, anatomy, RecipeSpace.of(spec.recipe))


def resolve(part: Part, anatomy: Anatomy) -> Targets:
    """Find where a part goes in a model.

    Raises:
        PlacementError: It matches nothing.
        UnsupportedError: It matches modules that the method cannot wrap.
    """
    rule = method(part.method)
    require_quantised(rule, anatomy)
    require_several_tasks(part, anatomy)
    layers = part.placement.layers.indices(anatomy.n_layers)
    require_size_for_each_layer(part, layers)
    if rule.placement.fixed:
        return Targets((), layers, anatomy)
    sites = anatomy.resolve(part.placement)
    refused = [site for site in sites if site.kind not in rule.placement.kinds]
    if read := [site for site in sites if site.kind == "embedding" and "embeddings" not in site.projections]:
        raise UnsupportedError(
            f"{part.method} on {read[0].name} could have no effect: models read the weight of such a table, of "
            "positions or lent to others, without calling it; place it on 'embeddings', the tables of tokens"
        )
    if refused:
        kind = refused[0].kind
        instead = instead_of(rule, kind=kind)
        raise UnsupportedError(
            f"{part.method} cannot wrap {refused[0].name} ({'an' if kind[0] in 'aeiou' else 'a'} {kind} module); "
            f"it wraps {', '.join(rule.placement.kinds)}; {f'{instead} can' if instead else 'no method can'}"
        )
    return Targets(sites, layers, anatomy)


def _alone_and_together(
    spec: SpaceSpec,
    given: Mapping[str, MethodSpec],
    hybrids: tuple[str | HybridSpec, ...],
    anatomy: Anatomy,
    dropped: list[str],
) -> Iterator[Composition]:
    """Yield each method alone and each hybrid that takes the settings of its methods; adds why others are left out."""
    together = [tuple(text.split(" + ")) for text in hybrids if isinstance(text, str)]
    wanted = {name: given.get(name) or MethodSpec() for names in (given, *together) for name in names}
    spaces = dict(_carried(spec, wanted, anatomy, dropped))
    for names in (*((name,) for name in given), *together):
        if set(names) <= set(spaces):
            yield Composition(" + ".join(names), tuple((label, spaces[name]) for name, label in _labels(names)))


def _with_own_parts(hybrids: tuple[str | HybridSpec, ...], anatomy: Anatomy, *, written: bool) -> Iterator[Composition]:
    """Yield each hybrid with parts of its own; of a preset's, the parts that the model can carry."""
    for one in hybrids:
        if isinstance(one, HybridSpec):
            shared = None if one.layers is None else LayerChoice.of(one.layers, anatomy.n_layers)
            parts: list[tuple[str, PartSpace]] = []
            problem: PlacementError | UnsupportedError | None = None
            for part, (_, label) in zip(one.parts, _labels([part.method for part in one.parts]), strict=True):
                part = part if written else _within(part, anatomy.n_layers)
                try:
                    parts.append((f"{one.name}.{label}", _bind_part(method(part.method), part, anatomy, shared)))
                except (PlacementError, UnsupportedError) as error:
                    if written:
                        raise
                    problem = error
            if problem is not None and not parts:
                raise problem
            yield Composition(one.name, tuple(parts), shared)


def _within(part: PartSpec, n_layers: int) -> PartSpec:
    """Return a preset's part without the layers that the model does not have."""
    fitting = tuple(text for text in part.layers or () if not reaches_beyond(text, n_layers))
    return part.model_copy(update={"layers": fitting}) if fitting else part


def _carried(
    spec: SpaceSpec, wanted: dict[str, MethodSpec], anatomy: Anatomy, dropped: list[str]
) -> Iterator[tuple[str, PartSpace]]:
    """Yield what the model can carry; what the user wrote is not left out but refused. Adds why others are left out."""
    texts = [text for text in spec.hybrids or () if isinstance(text, str)]
    written = {*(spec.methods or ()), *(name for text in texts for name in text.split(" + "))}
    for name, one in wanted.items():
        try:
            yield name, _bind_part(method(name), one, anatomy)
        except (PlacementError, UnsupportedError) as error:
            if name in written:
                raise
            dropped.append(str(error))


def _overlap(composition: Composition, anatomy: Anatomy, first: int, second: int) -> bool:
    """Whether two parts may be put on the same modules; those that have their own place may be anywhere."""
    one, other = (_reach(composition, composition.parts[index][1], anatomy) for index in (first, second))
    return one is None or other is None or bool(one & other)


def _reach(composition: Composition, part: PartSpace, anatomy: Anatomy) -> set[str] | None:
    choice = composition.layers or part.layers
    if part.rule.placement.fixed or choice is None:
        return None
    placements = (placement_of(text, layers) for text in part.projections for layers in choice.smallest())
    return {site.name for placement in placements for site in _sites(placement, anatomy)}


def _sites(placement: Placement, anatomy: Anatomy) -> tuple[Site, ...]:
    try:
        return anatomy.resolve(placement)
    except PlacementError:  # drawn all the same, and told as infeasible: not these projections in these layers
        return ()


def _preset_methods(preset: str) -> dict[str, MethodSpec]:
    return SpaceSpec(preset=preset, methods=presets()[preset]["methods"]).methods or {}


def _preset_hybrids(preset: str, searched: tuple[str, ...]) -> tuple[str | HybridSpec, ...]:
    """Return the preset's hybrids; of those that take the settings of their methods, the ones that are searched."""
    hybrids = SpaceSpec(preset=preset, hybrids=presets()[preset]["hybrids"]).hybrids or ()
    return tuple(one for one in hybrids if not isinstance(one, str) or set(one.split(" + ")) <= set(searched))


def _bind_part(rule: Method, given: MethodSpec, anatomy: Anatomy, shared: LayerChoice | None = None) -> PartSpace:
    require_carried(rule, anatomy)
    require_several_tasks(Part(rule.name), anatomy)
    absence = absence_of(rule, given.knobs)
    knobs = {knob.name: _narrowed(knob, given.knobs.get(knob.name), absence) for knob in rule.knobs}
    for name, knob in knobs.items():
        knobs[name] = _trainable(rule, knob, name in given.knobs, anatomy)
    if PER_TASK.name in knobs:
        knobs[PER_TASK.name] = _sharing(rule, knobs[PER_TASK.name], PER_TASK.name in given.knobs, anatomy)
    spreads = {name: values for name, values in given.knobs.items() if isinstance(values, Spread)}
    spread = tuple(SpreadKnob(knobs.pop(name), values, anatomy.n_layers) for name, values in spreads.items())
    rate = rule.learning_rate.narrowed(*given.learning_rate) if given.learning_rate else rule.learning_rate
    own = given.layers if rule.placement.layers or given.layers else ("all",)
    layers = None if shared is not None else LayerChoice.of(own, anatomy.n_layers)
    where = shared or layers or LayerChoice.of(("all",), anatomy.n_layers)
    widest = where.default(Layers())
    projections = ("",) if rule.placement.fixed else tuple(_projections(rule, given, widest, anatomy))
    return PartSpace(rule, tuple(knobs.values()), projections, layers, rate, absence, spread)


def _trainable(rule: Method, knob: Knob, written: bool, anatomy: Anatomy) -> Knob:
    """Return a knob without the flags and words that cannot be trained on the model's quantised weights."""
    able = []
    for value in knob.values if is_choice(knob) else ():
        try:
            require_setting(rule, knob.name, value, anatomy)
        except UnsupportedError:
            if written:
                raise
        else:
            able.append(value)
    return knob.narrowed(able) if able and len(able) < len(knob.values) else knob


def _sharing(rule: Method, knob: Knob, written: bool, anatomy: Anatomy) -> Knob:
    """Return how a method may share its adapter between tasks: with one task, or where it must, one for all."""
    try:
        if True in knob.values:
            require_per_task(rule, anatomy)
    except UnsupportedError:
        if written:
            raise
        return knob.narrowed((False,))
    return knob


def _narrowed(knob: Knob, values: tuple[KnobValue, ...] | Spread | None, absence: str) -> Knob:
    if values is None:
        return knob
    if isinstance(values, Spread):
        return knob.narrowed(values.values)
    return knob.narrowed([value for value in values if knob.name != absence or value != 0])


def _projections(rule: Method, given: MethodSpec, widest: Layers, anatomy: Anatomy) -> Iterator[str]:
    """Yield the sets of projections that match this model; what the user wrote must match."""
    options = given.projections or rule.placement.projections
    matched = 0
    for text in options:
        try:
            resolve(Part(rule.name, (), placement_of(text, widest)), anatomy)
        except (PlacementError, UnsupportedError):
            if given.projections:
                raise
            continue
        matched += 1
        yield text
    if not matched:
        raise PlacementError(f"space.methods.{rule.name}: none of {', '.join(options)} is in {anatomy.architecture}")


def _labels(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each method with the start of its parameters' names; a method's second use gets its own."""
    for position, name in enumerate(names):
        earlier = names[:position].count(name)
        yield name, f"{name}.{earlier + 1}" if earlier else name
