"""Peak memory and arithmetic of a candidate, added up from a table of layers.

What a layer costs depends on what stands on it, on whether gradients go through it, and on whether it is an outer one.
Layers that agree in this are alike, whichever candidate they belong to. Each kind is traced once, on a short model that
has one layer of each kind; after that a candidate of any number of layers is a sum along its way up and down:

    peak = standing tensors + the highest point of (activations kept so far + what the layer at hand needs beside)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import nn

from evaluators.attach import attach
from evaluators.layer_trace import Standing, Trace, Traced, trace
from evaluators.live_bytes import Span
from evaluators.memory import Load, StepCost
from evaluators.short_model import is_one_stack, on_layers, shortened
from search_space.candidate import Candidate, KnobValue, Part
from search_space.placement import Anatomy
from search_space.registry import method

_BESIDE = {"LST"}
"""Types that train beside the backbone: no gradient goes through its layers for them."""
_PENALISED = {"ADALORA", "DIFF_PRUNING"}
"""Types whose loss looks at all layers at once."""

PartKey = tuple[str, tuple[tuple[str, KnobValue], ...], tuple[str, ...], tuple[bool, ...]]


@dataclass(frozen=True)
class LayerKind:
    """What a layer's cost depends on.

    Attributes:
        block: What the layer is made of.
        parts: What stands on it.
        carries: Whether something below it is trained, so that gradients go through it.
        outer: Whether it is the first, and whether it is the last: models hold on to what goes in and comes out.
    """

    block: str
    parts: tuple[PartKey, ...]
    carries: bool
    outer: tuple[bool, bool]


class MemoryTable:
    """The layers of one backbone under one load, traced as candidates need them.

    Attributes:
        traces: Short models traced so far.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, dtype: torch.dtype, load: Load) -> None:
        """Begin an empty table for a frozen classifier on `meta`."""
        self._model, self._anatomy, self._dtype, self._load = model, anatomy, dtype, load
        self._layers: dict[tuple[LayerKind, float], Traced] = {}
        self._ends: dict[Any, _Ends] = {}
        self._short: dict[tuple[int, ...], tuple[nn.Module, Anatomy]] = {}
        self.traces = 0

    def takes(self, candidate: Candidate) -> bool:
        """Whether a candidate is a sum over layers: one stack, and no penalty on all of its parts."""
        types = {method(part.method).peft_type for part in candidate.parts}
        return self._one_stack and not types & _PENALISED

    def cost(self, candidate: Candidate) -> StepCost:
        """Return what a step costs. Raises what `attach` and `trace` raise."""
        kinds = self._kinds(candidate)
        dropout = candidate.recipe.dropout
        ends = self._ends_key(candidate, kinds)
        keys = [(kind, dropout > 0) for kind in kinds]
        if ends not in self._ends or any(key not in self._layers for key in keys):
            self._fill(candidate, kinds, ends)
        stem, last, top = self._ends[ends].at(self._repeats(candidate))
        return _added_up([stem, *(self._layers[key] for key in keys[:-1]), last, top], self._load)

    @cached_property
    def _one_stack(self) -> bool:
        return is_one_stack(self._anatomy)

    @cached_property
    def _blocks(self) -> list[str]:
        """What each layer is made of, as text."""
        types = getattr(self._model.config, "layer_types", None) or [""] * self._anatomy.n_layers
        inner: list[list[str]] = [[] for _ in self._anatomy.blocks]
        for site in self._anatomy.sites:
            if site.layer is not None:
                name = site.name.removeprefix(self._anatomy.blocks[site.layer].name)
                inner[site.layer].append(f"{name}:{site.in_features}x{site.out_features}")
        return [f"{kind} {' '.join(one)}" for kind, one in zip(types, inner, strict=True)]

    def _kinds(self, candidate: Candidate) -> list[LayerKind]:
        count = self._anatomy.n_layers
        standing: list[list[PartKey]] = [[] for _ in range(count)]
        trained = [False] * count
        below = any(_reaches_below(part, self._anatomy) for part in candidate.parts)
        for part in candidate.parts:
            through = method(part.method).peft_type not in _BESIDE and method(part.method).route != "head"
            layers = part.placement.layers.indices(count)
            for layer in range(count):
                if key := _part_key(part, layer, layers):
                    standing[layer].append(key)
                    trained[layer] = trained[layer] or (through and layer in layers)
        kinds = []
        for layer in range(count):
            kinds.append(
                LayerKind(self._blocks[layer], tuple(standing[layer]), below, (layer == 0, layer == count - 1))
            )
            below = below or trained[layer]
        return kinds

    def _ends_key(self, candidate: Candidate, kinds: Sequence[LayerKind]) -> Any:
        """Return what the costs outside the layers depend on: all parts, wherever they are, and the last layer."""
        parts = tuple(
            (_shape(part, None), part.placement.words, part.placement.layers.kind == "all") for part in candidate.parts
        )
        return parts, frozenset(kind.parts for kind in kinds), kinds[-1], candidate.recipe.dropout > 0

    def _fill(self, candidate: Candidate, kinds: Sequence[LayerKind], ends: Any) -> None:
        """Trace a model of one layer of each kind that the candidate has."""
        firsts: dict[LayerKind, int] = {}
        for layer, kind in enumerate(kinds):
            firsts.setdefault(kind, layer)
        kept = tuple(sorted(firsts.values()))
        traced = self._trace(candidate, kept)
        self._ends[ends] = _Ends(traced, self._repeats(candidate, kept))
        more = [layer for layer in self._repeating(candidate) if layer not in kept]
        if more:
            longer = tuple(sorted((*kept, more[0])))
            self._ends[ends] = replace(self._ends[ends], longer=self._trace(candidate, longer))
        for kind, one in zip((kinds[layer] for layer in kept), traced.layers, strict=True):
            self._layers.setdefault((kind, candidate.recipe.dropout > 0), one)

    def _trace(self, candidate: Candidate, kept: tuple[int, ...]) -> Trace:
        self.traces += 1
        if kept not in self._short:
            self._short[kept] = shortened(self._model, self._anatomy, kept)
        model, anatomy = self._short[kept]
        attached = attach(model, anatomy, on_layers(candidate, kept, self._anatomy.n_layers))
        return trace(attached, [block.name for block in anatomy.blocks], self._dtype, self._load)

    def _repeating(self, candidate: Candidate) -> list[int]:
        """Return the layers of parts that cost something elsewhere for each of their layers.

        Prefixes are made before the first layer. Gradients beside the backbone do not come by the layers' borders.
        """
        parts = (part for part in candidate.parts if method(part.method).peft_type in _INSIDE | _BESIDE)
        return [layer for part in parts for layer in part.placement.layers.indices(self._anatomy.n_layers)]

    def _repeats(self, candidate: Candidate, kept: Sequence[int] | None = None) -> int:
        """Return how often that is, on all layers or on some."""
        layers = self._repeating(candidate)
        return len(layers) if kept is None else sum(layer in kept for layer in layers)


@dataclass(frozen=True)
class _Ends:
    """What a candidate costs outside the layers and in the last one.

    Attributes:
        short: The trace.
        repeats: How many layers it had that cost something here.
        longer: A trace with one such layer more, if there are any.
    """

    short: Trace
    repeats: int
    longer: Trace | None = None

    def at(self, repeats: int) -> tuple[Traced, Traced, Traced]:
        """Return stem, last layer and top for a number of such layers."""
        one, other = self.short, self.longer
        if other is None or repeats == self.repeats:
            return one.stem, one.layers[-1], one.top
        more = repeats - self.repeats
        return (
            _continued(one.stem, other.stem, more),
            _continued(one.layers[-1], other.layers[-1], more),
            _continued(one.top, other.top, more),
        )


def _continued(one: Any, other: Any, more: int) -> Any:
    """Return what comes `more` equal steps after `one`, the first of them being `other`: numbers or data of numbers."""
    if isinstance(one, int):
        return one + more * (other - one)
    return type(one)(*(_continued(getattr(one, each.name), getattr(other, each.name), more) for each in fields(one)))


def _part_key(part: Part, layer: int, layers: Sequence[int]) -> PartKey | None:
    """Return what a part is to one layer: nothing where it does not stand there."""
    rule = method(part.method)
    if layer not in layers:
        # a prompt on other layers lengthens what this layer sees
        return (part.method, (), (), ()) if rule.route == "prompt" else None
    ends = (layer == layers[0], layer == layers[-1]) if rule.placement.fixed else ()
    at = layers.index(layer)
    return part.method, _shape(part, at), part.placement.words, ends


def _shape(part: Part, at: int | None) -> tuple[tuple[str, KnobValue], ...]:
    """Return the knobs that give tensors their shapes: at one layer of a part, or everywhere."""
    free = {knob.name for knob in method(part.method).knobs if not knob.shapes}
    return tuple(
        (name, value if at is None or not isinstance(value, tuple) else value[at])
        for name, value in part.knobs
        if name not in free
    )


def _reaches_below(part: Part, anatomy: Anatomy) -> bool:
    """Whether a part trains something before the first layer."""
    rule = method(part.method)
    if rule.route == "prompt":
        return rule.peft_type not in _INSIDE
    if part.placement.layers.kind != "all" or rule.route == "head" or rule.peft_type in _BESIDE:
        return False
    if rule.route == "full" or rule.placement.fixed:
        return True
    first = anatomy.sites.index(next(site for site in anatomy.sites if site.layer is not None))
    before = {site.name for site in anatomy.sites[:first]}
    return any(site.name in before for site in anatomy.resolve(part.placement))


_INSIDE = {"PREFIX_TUNING", "CARTRIDGE"}
"""Prompts that stand in the layers and leave what comes into the first one alone."""


def _added_up(places: Sequence[Traced], load: Load) -> StepCost:
    standing = sum((place.standing for place in places), Standing())
    there = standing.bytes + standing.masters + standing.state
    way = [place.forward for place in places] + [place.backward for place in reversed(places)]
    step = standing.gradients + standing.masters + standing.update  # masters have gradients of their own
    # of earlier parts of the step: those of two bytes are added up in the four of their masters
    before = standing.gradients + standing.masters // 2 if load.accumulated else 0
    return StepCost(
        there + max(before + _highest(way), step),
        standing.bytes + _highest([place.inference for place in places]),
        sum(place.inference.flops for place in places) / prod(load.evaluated),
        sum(span.flops for span in way) / (load.batch * load.length),
    )


def _highest(way: Sequence[Span]) -> int:
    now = highest = 0
    for span in way:
        highest = max(highest, now + span.peak)
        now += span.change
    return highest
