"""Peak memory and arithmetic of a candidate, added up from a table of layers.

What a layer costs depends on what stands on it, on whether gradients go through it, and on whether it is an outer one.
Layers that agree in this are alike, whichever candidate they belong to. Each kind is traced once, on a short model that
has one layer of each kind; after that a candidate of any number of layers is a sum along its way up and down:

    peak = standing tensors + the highest point of (activations kept so far + what the layer at hand needs beside)

An encoder and a decoder are one way too: up the one, what stands between them, up the other, and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import nn

from evaluators.layer_trace import Standing, Trace, Traced
from evaluators.live_bytes import Span
from evaluators.memory import Load, StepCost
from evaluators.short_model import first_stack, is_one_stack, is_two_in_turn
from evaluators.table_files import TableFiles, key_of
from evaluators.tracing import LocalTracer, Tracer
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
        reads: Whether it reads an encoder that gradients go through.
    """

    block: str
    parts: tuple[PartKey, ...]
    carries: bool
    outer: tuple[bool, bool]
    reads: bool = False


class MemoryTable:
    """The layers of one backbone under one load, traced as candidates need them.

    Attributes:
        traces: Short models traced so far.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        dtype: torch.dtype,
        load: Load,
        tracer: Tracer | None = None,
        files: TableFiles | None = None,
    ) -> None:
        """Begin a table.

        Args:
            model: A frozen classifier on `meta`.
            anatomy: Its anatomy.
            dtype: Type of the frozen weights.
            load: The shape of the step.
            tracer: Traces; in this process when None.
            files: What was traced before, for this backbone and load; None begins an empty table.
        """
        self._model, self._anatomy, self._load = model, anatomy, load
        self._tracer = tracer or LocalTracer(model, anatomy, dtype)
        self._files = files
        self._layers: dict[tuple[LayerKind, bool], Traced] = {}
        self._ends: dict[Any, _Ends] = {}
        self._whole: dict[tuple[str, bool], StepCost] = {}
        self.traces = 0

    def takes(self, candidate: Candidate) -> bool:
        """Whether a candidate is a sum over layers: of one stack or two, and no penalty on all of its parts."""
        types = {method(part.method).peft_type for part in candidate.parts}
        if self._one_stack:
            return not types & _PENALISED
        return self._two_in_turn and not types & (_PENALISED | _BESIDE | _INSIDE)

    def cost(self, candidate: Candidate) -> StepCost:
        """Return what a step costs: added up, or traced whole where it is no sum.

        Raises what `attach`, `trace` and `predict_step` raise, and TracingError where another process traces.
        """
        return self._sum(candidate) if self.takes(candidate) else self._at_once(candidate)

    def _sum(self, candidate: Candidate) -> StepCost:
        kinds = self._kinds(candidate)
        ends = self._ends_key(candidate, kinds)
        keys = [(kind, candidate.recipe.dropout > 0) for kind in kinds]
        if not self._stands(keys, ends):
            self._recall(keys, ends)
        if not self._stands(keys, ends):
            self._fill(candidate, kinds, ends)
        outside = self._ends[ends].at(self._repeats(candidate))
        places = [outside.stem, *(self._layers[key] for key in keys[:-1]), outside.last, outside.top]
        places.insert(self._first + 1, outside.middle)
        return _added_up(places, self._load)

    def _at_once(self, candidate: Candidate) -> StepCost:
        key = (candidate.architecture_sha256, candidate.recipe.dropout > 0)
        if key not in self._whole:
            known = self._files.find(_file_key(key)) if self._files else None
            if known is None:
                self.traces += 1
                self._whole[key] = self._tracer.whole(candidate, self._load)
                self._keep({key: self._whole[key]})
            else:
                self._whole[key] = StepCost(**known)
        return self._whole[key]

    def _stands(self, keys: Sequence[tuple[LayerKind, bool]], ends: Any) -> bool:
        """Whether the table holds all that a sum needs."""
        return ends in self._ends and all(key in self._layers for key in keys)

    def _recall(self, keys: Sequence[tuple[LayerKind, bool]], ends: Any) -> None:
        """Take from the files what the table lacks."""
        if self._files is None:
            return
        for key in set(keys) - self._layers.keys():
            if (known := self._files.find(_file_key(key))) is not None:
                self._layers[key] = Traced.from_json(known)
        if ends not in self._ends and (known := self._files.find(_file_key(ends))) is not None:
            self._ends[ends] = _Ends.from_json(known)

    def _keep(self, found: Mapping[Any, Any]) -> None:
        """Put what was traced into the files."""
        if self._files is not None:
            self._files.add({_file_key(key): asdict(one) for key, one in found.items()})

    @cached_property
    def _one_stack(self) -> bool:
        return is_one_stack(self._anatomy)

    @cached_property
    def _two_in_turn(self) -> bool:
        return is_two_in_turn(self._model, self._anatomy)

    @cached_property
    def _first(self) -> int:
        """How many layers are of the first stack."""
        return first_stack([block.name for block in self._anatomy.blocks])

    @cached_property
    def _blocks(self) -> list[str]:
        """What each layer is made of, as text."""
        types = getattr(self._model.config, "layer_types", None) or [""] * self._anatomy.n_layers
        inner: list[list[str]] = [[] for _ in self._anatomy.blocks]
        for site in self._anatomy.sites:
            if site.layer is not None:
                name = site.name.removeprefix(self._anatomy.blocks[site.layer].name)
                inner[site.layer].append(f"{name}:{site.in_features}x{site.out_features}")
        stacks = [block.stack for block in self._anatomy.blocks]
        return [f"{stack} {kind} {' '.join(one)}" for stack, kind, one in zip(stacks, types, inner, strict=True)]

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
        kinds, before, reads = [], below, False
        for layer in range(count):
            if layer == self._first:  # a decoder begins anew, and reads what the encoder gave
                below, reads = before, below
            outer = (layer in (0, self._first), layer in (self._first - 1, count - 1))
            kinds.append(LayerKind(self._blocks[layer], tuple(standing[layer]), below, outer, reads))
            below = below or trained[layer] or reads
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
        more = [layer for layer in self._repeating(candidate) if layer not in kept]
        longer = self._trace(candidate, tuple(sorted((*kept, more[0])))) if more else None
        repeats = self._repeats(candidate, kept)
        self._ends[ends] = _Ends(_Outside.of(traced), repeats, _Outside.of(longer) if longer else None)
        dropout = candidate.recipe.dropout > 0
        found = {(kinds[layer], dropout): one for layer, one in zip(kept, traced.layers, strict=True)}
        self._keep({ends: self._ends[ends], **{key: one for key, one in found.items() if key not in self._layers}})
        self._layers = {**found, **self._layers}

    def _trace(self, candidate: Candidate, kept: tuple[int, ...]) -> Trace:
        self.traces += 1
        return self._tracer.layers(candidate, kept, self._load)

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
class _Outside:
    """What a short model costs before its layers, in the last one, behind, and between two stacks."""

    stem: Traced
    last: Traced
    top: Traced
    middle: Traced

    @classmethod
    def of(cls, one: Trace) -> _Outside:
        return cls(one.stem, one.layers[-1], one.top, one.middle)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> _Outside:
        return cls(*(Traced.from_json(data[one.name]) for one in fields(cls)))


@dataclass(frozen=True)
class _Ends:
    """What a candidate costs outside the layers and in the last one.

    Attributes:
        short: As traced.
        repeats: How many layers it had that cost something here.
        longer: With one such layer more, if there are any.
    """

    short: _Outside
    repeats: int
    longer: _Outside | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> _Ends:
        longer = data["longer"]
        return cls(_Outside.from_json(data["short"]), data["repeats"], longer and _Outside.from_json(longer))

    def at(self, repeats: int) -> _Outside:
        """Return what it is for a number of such layers."""
        one = self.short
        if self.longer is not None and repeats != self.repeats:
            one = _continued(one, self.longer, repeats - self.repeats)
        return one


def _file_key(key: Any) -> str:
    """Return what a key of the table is called in the files."""
    return key_of(_plain(key))


def _plain(key: Any) -> Any:
    """Return a key as JSON data; members of a set in one order."""
    if isinstance(key, LayerKind):
        return ["layer", *(_plain(getattr(key, one.name)) for one in fields(key))]
    if isinstance(key, frozenset):
        return sorted(map(_plain, key), key=repr)
    return list(map(_plain, key)) if isinstance(key, tuple) else key


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
