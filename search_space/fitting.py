"""Candidates that fit a budget of trainable parameters: drawn so, or brought down to it, none of them twice.

Drawing and looking is right as long as much of the space fits. Where little does, the sizes of a draw are drawn again,
one after the other, each from those that leave room for the others: what a rank's upper end is follows from the budget.
Whatever else a sampler said is kept. The domains that samplers see are those of the space, always.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from random import Random

from search_space.candidate import Candidate, KnobValue, Part, in_one
from search_space.compositions import Composition
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError
from search_space.knobs import Knob, RandomChooser
from search_space.layer_choice import LayerChoice
from search_space.layers import Layers
from search_space.notation import write_part
from search_space.part_space import PartSpace, placement_of
from search_space.space import Space
from search_space.spread import SpreadKnob
from search_space.tally import Tally

_LOOKS = 8
_MOST_DRAWS = 400


class Fitting:
    """The candidates of a space that fit a budget.

    Attributes:
        space: The space.
        tally: Counts trainable parameters.
        limit: Most trainable parameters of a candidate; no limit when None.
        refused: Identities of architectures that were found not to do, whatever their recipe.
    """

    def __init__(
        self, space: Space, tally: Tally, limit: float | None, seed: int = 0, refused: Collection[str] = ()
    ) -> None:
        self.space, self.tally, self.limit, self.refused = space, tally, limit, refused
        self._random = Random(seed)  # noqa: S311  (a search, not a secret)
        self._chooser = RandomChooser(seed)
        self._drawn, self._fitted = _LOOKS, _LOOKS
        self._last_is_least: dict[object, dict[str, bool]] = {}
        self._rising: dict[tuple[Part, str], tuple[list[Part], list[int]]] = {}
        self._steps: dict[tuple[Part, str], dict[int, list[tuple[int, int]]]] = {}
        self._dearer: dict[object, list[tuple[int, int]]] = {}

    def fits(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the budget, on a model that can carry it. Without a budget all are.

        What was refused before does not fit.
        """
        if self.refused and candidate.architecture_sha256 in self.refused:
            return False
        if self.limit is None:
            return True
        try:
            return self.tally(candidate) <= self.limit
        except (PlacementError, UnsupportedError):
            return False

    def draw(self, taken: Collection[str] = ()) -> Candidate | None:
        """Draw a candidate that fits; None when no new one was found in many draws.

        Args:
            taken: Identities that are not to be drawn again.
        """
        for attempt in range(_MOST_DRAWS):
            drawn, spaces = self.space.draw_with_spaces(self._chooser)
            found: Candidate | None = drawn
            if not self._looked_at(drawn):
                scarce = 4 * self._fitted < self._drawn
                found = self._brought_down(drawn, spaces) if scarce or attempt >= _LOOKS else None
            if found is not None and found.sha256 not in taken:
                return found
        return None

    def _looked_at(self, drawn: Candidate) -> bool:
        """Whether a plain draw fits; remembers how many do."""
        fits = self.fits(drawn)
        self._drawn += 1
        self._fitted += fits
        return fits

    def near(self, candidate: Candidate, taken: Collection[str] = ()) -> Candidate | None:
        """Return a candidate if it fits and is new; else one with other sizes; else any. None when there is none."""
        if candidate.sha256 not in taken and self.fits(candidate):
            return candidate
        spaces = self.space.spaces_of(candidate) if self.limit is not None else None
        for _ in range(_LOOKS if spaces is not None else 0):
            other = self._brought_down(candidate, spaces or ())
            if other is not None and other.sha256 not in taken:
                return other
        return self.draw(taken)

    def _brought_down(self, candidate: Candidate, spaces: Sequence[PartSpace]) -> Candidate | None:
        """Return a candidate with its sizes drawn again, so that it fits; None where it cannot."""
        try:
            other = self._resized(candidate, spaces)
        except (PlacementError, UnsupportedError):
            return None
        return other if other is not None and self.fits(other) else None  # parts that share something do not add up

    def _resized(self, candidate: Candidate, spaces: Sequence[PartSpace]) -> Candidate | None:
        parts = list(candidate.parts)
        least = [self._least_sizes(part, space) for part, space in zip(parts, spaces, strict=True)]
        needs = [self.tally.part(part) for part in least]
        room = (math.inf if self.limit is None else self.limit) - sum(needs)
        keep = list(range(len(parts)))
        while room < 0 and len(keep) > 1 and (droppable := [index for index in keep if spaces[index].optional]):
            dropped = self._random.choice(droppable)
            keep.remove(dropped)
            room += needs[dropped]
        if room < 0:
            return None
        for index in self._random.sample(keep, len(keep)):
            parts[index] = self._sized(least[index], spaces[index], needs[index] + room)
            room -= self.tally.part(parts[index]) - needs[index]
        if len(keep) == len(parts):
            return Candidate(tuple(parts), candidate.recipe)
        rates = tuple(candidate.recipe.learning_rates[index] for index in keep)
        return Candidate(tuple(parts[index] for index in keep), replace(candidate.recipe, learning_rates=rates))

    def _least_sizes(self, part: Part, space: PartSpace) -> Part:
        """Return a part with each of its sizes at the end where it costs the least, whichever layers it stands on."""
        sizes = dict(_sizes_of(part, space))
        plain = tuple((name, value) for name, value in part.knobs if name not in sizes)
        key = (plain, part.placement.projections, id(space))
        if key not in self._last_is_least:
            self._last_is_least[key] = {}
            for name, options in sizes.items():
                ends = [_with(part, name, value) for value in (options[0], options[-1])]
                last = self.tally.part(ends[1]) < self.tally.part(ends[0])
                self._last_is_least[key][name], part = last, ends[last]
            return part
        if not sizes:
            return part
        least = {name: options[-self._last_is_least[key][name]] for name, options in sizes.items()}
        return Part(
            part.method, tuple({**dict(part.knobs), **{n: in_one(v) for n, v in least.items()}}.items()), part.placement
        )

    def _sized(self, part: Part, space: PartSpace, room: float) -> Part:
        """Draw the sizes of a part one after the other, each from those that leave it within its room."""
        for name, options in _sizes_of(part, space):
            if name not in {one.name for one in space.spreads if one.spread.per != "shape"}:
                part = self._drawn_below(part, name, options, room)
        for spread in space.spreads:
            if spread.spread.per != "shape":
                part = self._spread_out(part, spread, room)
        return part

    def _drawn_below(self, part: Part, name: str, options: Sequence[KnobValue], room: float) -> Part:
        """Draw one size; costs rise from one end of the options to the other, so where they end is found by halving."""
        key = (part, name)
        if key not in self._rising:
            forms = [_with(part, name, value) for value in options]
            if self.tally.part(forms[0]) > self.tally.part(forms[-1]):
                forms.reverse()
            self._rising[key] = forms, [self.tally.part(form) for form in forms]
        forms, costs = self._rising[key]
        end = bisect_right(costs, room)
        return self._random.choice(forms[:end]) if end else part

    def _spread_out(self, part: Part, spread: SpreadKnob, room: float) -> Part:
        """Draw the size of each layer or group of layers, as long as there is room for it beside the others."""
        layers = part.placement.layers
        room -= self.tally.part(part)
        key = (part, spread.name)
        if key not in self._steps:
            self._steps[key] = self._steps_of(part, spread)
        steps, sizes = self._steps[key], {}
        for unit in self._random.sample(list(steps), len(steps)):
            sizes[unit], cost = self._random.choice([pair for pair in steps[unit] if pair[1] <= room])
            room -= cost
        return _with(part, spread.name, spread.with_sizes(sizes, layers))

    def _steps_of(self, part: Part, spread: SpreadKnob) -> dict[int, list[tuple[int, int]]]:
        """Return for each unit of a part its sizes, each with what it costs beyond the part as it is.

        That is asked once for layers of one shape, on whichever other layers the part stands too. Where a method is no
        sum over layers it may differ; what is drawn by it is counted whole before it is given.
        """
        layers, least = part.placement.layers, self.tally.part(part)
        before = part[spread.name]
        least_sizes = frozenset(before) if isinstance(before, tuple) else before
        others = tuple(pair for pair in part.knobs if pair[0] != spread.name and not isinstance(pair[1], tuple))
        like = (part.method, others, part.placement.projections, spread.name, spread.spread, least_sizes)
        found = {}
        for unit in spread.units(layers):
            kind = (like, tuple(self.tally.shapes[layer] for layer in spread.layers_of(unit, layers)))
            if kind not in self._dearer:
                forms = [(size, spread.changed(before, unit, size, layers)) for size in spread.spread.values]
                self._dearer[kind] = [
                    (size, self.tally.part(_with(part, spread.name, form)) - least) for size, form in forms
                ]
            found[unit] = self._dearer[kind]
        return found


def require_fitting(space: Space, tally: Tally, limit: float) -> None:
    """Refuse a space none of whose candidates fits a budget of trainable parameters.

    Raises:
        EmptySpaceError: None fits; the message names the smallest candidate and the budget that admits it.
    """
    fitting = Fitting(space, tally, limit)
    if any(fitting.fits(one) for one in (space.usual(), *(space.draw(fitting._chooser) for _ in range(_LOOKS)))):
        return
    smallest: tuple[int, tuple[Part, ...]] | None = None
    for composition in space.compositions:
        found = _smallest(composition, tally)
        if found is not None and found[0] <= limit:
            return
        if found is not None and (smallest is None or found[0] < smallest[0]):
            smallest = found
    if smallest is None:
        raise EmptySpaceError("space: the model can carry no candidate of it; see `paretune methods`")
    params, parts = smallest
    raise EmptySpaceError(
        f"budgets.trainable_params: no candidate has at most {limit:,.0f} trainable parameters; the smallest is "
        f"{' + '.join(map(write_part, parts))} with {params:,}. Raise the budget to {params:,}, "
        f"or list smaller sizes, fewer layers or fewer projections under space.methods"
    )


def smallest_forms(composition: Composition, tally: Tally) -> Iterator[tuple[int, tuple[Part, ...]]]:
    """Yield the smallest candidate of a composition, then the smallest that begins as late as any, with their sizes.

    The first trains the fewest parameters. The other needs the least memory: its way back is the shortest. Nothing is
    yielded where the model carries none of its parts.
    """
    for latest in (False, True):
        if (found := _smallest(composition, tally, latest=latest)) is not None:
            yield found


def _smallest(composition: Composition, tally: Tally, *, latest: bool = False) -> tuple[int, tuple[Part, ...]] | None:
    """Return the smallest candidate of a composition; None where the model carries none of its parts."""
    found = []
    for layers in [None] if composition.layers is None else _places(composition.layers, latest):
        parts = [(space, _smallest_part(space, layers, tally, latest=latest)) for _, space in composition.parts]
        needed = [one for space, one in parts if not space.optional]
        if any(one is None for one in needed):
            continue
        optional = [one for _, one in parts if one is not None]
        chosen = [one for one in needed if one is not None] or ([min(optional)] if optional else [])
        if chosen:
            found.append((sum(params for params, _ in chosen), tuple(part for _, part in chosen)))
    return min(found) if found else None


def _places(choice: LayerChoice, latest: bool) -> list[Layers]:
    """Return the layers that everything drawn is made of; or of these the ones whose lowest layer is the highest."""
    places = list(choice.smallest())
    return [max(places, key=lambda one: min(one.indices(choice.n_layers)))] if latest and places else places


def _smallest_part(
    space: PartSpace, shared: Layers | None, tally: Tally, *, latest: bool = False
) -> tuple[int, Part] | None:
    """Return the smallest form of a part; its sizes are made small one after the other."""
    part, _ = space.default(shared)
    where = [shared] if shared is not None else _places(space.layers, latest) if space.layers is not None else []
    forms = []
    for projections in space.projections:
        for layers in where:
            sizes = tuple((one.name, one.default) for one in space.knobs)
            sizes += tuple((one.name, one.first(layers)) for one in space.spreads)
            forms.append(Part(part.method, sizes, placement_of(projections, layers)))
    found = [one for form in forms if (one := _made_small(form, space, tally)) is not None]
    return min(found) if found else None


def _made_small(part: Part, space: PartSpace, tally: Tally) -> tuple[int, Part] | None:
    known = _counted(part, tally)
    for name, options in _choices_of(part, space):
        forms = [_counted(_with(part, name, value), tally) for value in options]
        known = min([one for one in forms if one is not None] + ([known] if known is not None else []), default=None)
        part = known[1] if known is not None else part
    return known


def _counted(part: Part, tally: Tally) -> tuple[int, Part] | None:
    try:
        return tally.part(part), part
    except (PlacementError, UnsupportedError):
        return None


def _choices_of(part: Part, space: PartSpace) -> Iterator[tuple[str, Sequence[KnobValue]]]:
    """Yield the knobs that change a part's count, each with its values."""
    for knob in space.knobs:
        if knob.shapes and len(knob.values) > 1:
            yield knob.name, knob.values
    yield from _spread_sizes(part, space)


def _sizes_of(part: Part, space: PartSpace) -> Iterator[tuple[str, Sequence[KnobValue]]]:
    """Yield the sizes of a part, each with its values; one for all layers at once where they may differ."""
    for knob in space.knobs:
        if _is_size(knob):
            yield knob.name, knob.values
    yield from _spread_sizes(part, space)


def _spread_sizes(part: Part, space: PartSpace) -> Iterator[tuple[str, Sequence[KnobValue]]]:
    for one in space.spreads:
        yield one.name, one.forms(part.placement.layers) if one.spread.per == "shape" else one.spread.values


def _is_size(knob: Knob) -> bool:
    return knob.low is not None and knob.shapes and len(knob.values) > 1


def _with(part: Part, name: str, value: KnobValue) -> Part:
    return Part(part.method, tuple({**dict(part.knobs), name: in_one(value)}.items()), part.placement)
