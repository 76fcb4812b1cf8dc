"""How many numbers a candidate trains and keeps: exact, and mostly without building the model.

What each part brings is found by the law of its method, as `evaluators.part_laws` says, and parts are added up. That
is not believed either: the first two parts of each pair of methods are built together on `meta`, on modules that they
share and on others; where the sum differs, whole builds it stays.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import NamedTuple

from torch import nn

from evaluators.attach import adapters_of, is_of_head
from evaluators.backbone import head_of
from evaluators.deployed import Kept, deployed_params, keeps_all
from evaluators.hybrid_names import ALONE, Around, entries_of, wrapped
from evaluators.part_laws import Held, PartLaws
from evaluators.part_plan import Plan
from evaluators.saved import Entry, Saved, entry, file_bytes
from search_space.candidate import Candidate, KnobValue, Part
from search_space.carrying import is_per_task
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy
from search_space.registry import PER_TASK, method
from search_space.spread import in_one_size

_HEADER_SHARE = 0.01


@dataclass(frozen=True)
class Counts:
    """How many numbers a candidate has.

    Attributes:
        trainable_params: Trained, without the head.
        head_params: Trained, of the head.
        deployed_params: Needed to serve it beside the backbone, without the head, as `evaluators.deployed` says.
        checkpoint_bytes: Size of the saved candidate, head included. Where parts wrap whole layers, names in the file
            make it a little larger; how AdaMSS's clusters divide the rows, known only from values, changes digits.
    """

    trainable_params: int
    head_params: int
    deployed_params: int
    checkpoint_bytes: int


class _Piece(NamedTuple):
    """What is attached at once: a part in one size, or for one task.

    Attributes:
        name: Of its adapter.
        plan: The part, brought down to what its numbers depend on.
    """

    name: str
    plan: Plan


class _Stand(NamedTuple):
    """Where a part stands.

    Attributes:
        methods: Of its pieces, in order.
        sites: The modules that it is on.
        crowded: Whether two of its own pieces are on one.
    """

    methods: tuple[str, ...]
    sites: frozenset[str]
    crowded: bool

    @classmethod
    def of(cls, pieces: Sequence[_Piece]) -> _Stand:
        """Look at a part's pieces."""
        names = [site.name for piece in pieces for site in piece.plan.sites]
        sites = frozenset(names)
        return cls(tuple(piece.plan.rule.name for piece in pieces), sites, len(sites) < len(names))

    def beside(self, other: _Stand) -> tuple[tuple[str, ...], bool]:
        """Return what decides whether two parts bring the sum: their methods, and whether they meet on one module.

        There adapters may share what they have apart elsewhere.
        """
        meet = self.crowded or other.crowded or not self.sites.isdisjoint(other.sites)
        return self.methods + other.methods, meet


class Counter:
    """Counts candidates on one model."""

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Look at a frozen classifier on `meta`, of the types in which it will be trained."""
        self._anatomy = anatomy
        self._heads = head_of(model)
        saved = tuple(
            Saved(f"{name}.{key}", "F32", tuple(one.shape))
            for name in self._heads
            for key, one in model.get_submodule(name).named_parameters()
        )
        self._head_params = sum(prod(one.shape) for one in saved)
        self._head = tuple(entry(one, one.name) for one in saved)
        self._laws = PartLaws(model, anatomy, lambda part, held: self._alone(held, (part,)))
        self._sums_up: dict[tuple[tuple[str, ...], bool], bool] = {}
        self._checked: dict[tuple[str, tuple[tuple[str, KnobValue], ...], bool, bool], Part] = {}
        self._known: dict[tuple[Part, ...], Counts | UnsupportedError] = {}
        self._trained: dict[tuple[Part, ...], int] = {}

    @property
    def built(self) -> int:
        """How many candidates were built whole so far."""
        return self._laws.built

    def count(self, candidate: Candidate) -> Counts:
        """Count a candidate. Raises UnsupportedError or PlacementError where the model cannot carry it."""
        parts = tuple(map(self._canonical, candidate.parts))
        if parts not in self._known:
            try:
                with _uncollected():
                    self._known[parts] = self._count(parts)
            except UnsupportedError as error:
                self._known[parts] = error
        known = self._known[parts]
        if isinstance(known, UnsupportedError):
            raise known
        return known

    def trainable_params(self, candidate: Candidate) -> int:
        """Return the trainable parameters without the head, and look at nothing else. Raises as `count` does."""
        parts = tuple(map(self._canonical, candidate.parts))
        if parts in self._known or not (pieces := self._sum_of(parts)):
            return self.count(candidate).trainable_params
        return sum(self._laws.held(piece.plan).trained for piece in pieces)

    def whole(self, parts: tuple[Part, ...]) -> Counts:
        """Count by building the model whole on `meta`: what sums are checked against."""
        return self._alone(self._laws.build(parts), parts)

    def _canonical(self, part: Part) -> Part:
        """Return a part with the knobs that change no shape at their defaults."""
        placement = part.placement
        key = part.method, part.knobs, bool(placement.projections), placement.layers.kind == "all"
        if key not in self._checked:
            rule = method(part.method)
            rule.check(part)
            shapeless = {knob.name: knob.default for knob in rule.knobs if not knob.shapes}
            self._checked[key] = replace(part, knobs=tuple({**dict(part.knobs), **shapeless}.items()))
        knobs = self._checked[key].knobs
        return part if knobs == part.knobs else Part(part.method, knobs, placement)

    def _pieces(self, part: Part, name: str) -> list[_Piece]:
        """Return the pieces of one size each that a part is attached as."""
        if method(part.method).route != "inject":
            return [_Piece(name, Plan.of(part, self._anatomy))]
        if not is_per_task(part):
            return [_Piece(name, Plan.of(one, self._anatomy)) for one in in_one_size(part, self._anatomy)]
        shared = replace(part, knobs=tuple({**dict(part.knobs), PER_TASK.name: False}.items()))
        return [
            _Piece(each, Plan.of(one, self._anatomy))
            for each in adapters_of(part, name, self._anatomy)
            for one in in_one_size(shared, self._anatomy)
        ]

    def _count(self, parts: tuple[Part, ...]) -> Counts:
        pieces = self._sum_of(parts)
        return self._sum(pieces, parts) if pieces else self.whole(parts)

    def _sum_of(self, parts: tuple[Part, ...]) -> list[_Piece]:
        """Return the pieces that parts are the sum of; none where they are to be built whole."""
        of_parts = [self._pieces(part, f"part{at}") for at, part in enumerate(parts)]
        pieces = [piece for some in of_parts for piece in some]
        if any(self._laws.law(piece.plan) is None for piece in pieces):
            return []  # nothing wide could be built to try sums on: the next may tell more
        if len(pieces) > 1 and any(piece.plan.rule.route == "full" for piece in pieces):
            return []
        stands = list(map(_Stand.of, of_parts))
        if len(pieces) == 1:
            return pieces
        if len(parts) == 1:
            return pieces if self._is_sum((stands[0].methods, stands[0].crowded), parts, pieces) else []
        for one, other in combinations(range(len(parts)), 2):
            kind = stands[one].beside(stands[other])
            known = self._sums_up.get(kind)
            if known is None:
                known = self._is_sum(kind, (parts[one], parts[other]), [*of_parts[one], *of_parts[other]])
            if not known:
                return []
        return pieces

    def _is_sum(self, kind: tuple[tuple[str, ...], bool], parts: tuple[Part, ...], pieces: list[_Piece]) -> bool:
        """Whether pieces bring together what each brings alone, tried with the first of their kind.

        Pairs are enough for any number of parts: of which no two share a number, all bring the sum.
        """
        if kind not in self._sums_up:
            names = [one.name for some in map(self._pieces, parts, ("part0", "part1")) for one in some]
            own = [_Piece(name, one.plan) for name, one in zip(names, pieces, strict=True)]
            self._sums_up[kind] = _equal(self._sum(own, parts), self.whole(parts))
        return self._sums_up[kind]

    def _sum(self, pieces: Sequence[_Piece], parts: tuple[Part, ...]) -> Counts:
        held = [self._laws.held(piece.plan) for piece in pieces]
        if len(pieces) == 1:
            return self._alone(held[0], parts)
        covers = wrapped([(one.plan.rule.peft_type, [site.name for site in one.plan.sites]) for one in pieces])
        prompted = any(piece.plan.rule.route == "prompt" for piece in pieces)
        around = [
            Around(piece.name, covered, prompted and piece.plan.rule.route != "prompt")
            for piece, covered in zip(pieces, covers, strict=True)
        ]
        return self._counts(held, around, parts)

    def _alone(self, held: Held, parts: tuple[Part, ...]) -> Counts:
        """Count what is held under its own names."""
        return self._counts([held], [Around(ALONE, {}, within=False)], parts)

    def _counts(self, held: Sequence[Held], around: Sequence[Around], parts: tuple[Part, ...]) -> Counts:
        entries = [one for each, where in zip(held, around, strict=True) for one in entries_of(each.placed, where)]
        return Counts(
            sum(each.trained for each in held),
            self._head_params,
            self._deployed(held, entries, parts),
            file_bytes((*entries, *self._head_of(held))),
        )

    def _deployed(self, held: Sequence[Held], entries: Sequence[Entry], parts: tuple[Part, ...]) -> int:
        """Return what must be kept to serve some parts, whose tensors are given in order with their names."""
        saved = (one for each in held for placed in each.placed for one in placed.tensors.saved)
        kept = (
            Kept(one.name, tensor.shape)
            for one, tensor in zip(entries, saved, strict=True)
            if not is_of_head(one.name, self._heads)
        )
        if keeps_all(parts) and not any(each.head for each in held):
            return sum(placed.tensors.numbers for each in held for placed in each.placed)
        return deployed_params(parts, kept)

    def _head_of(self, held: Sequence[Held]) -> Iterator[Entry]:
        given = next((each.head for each in held if each.head), None)
        return iter(self._head) if given is None else (entry(one, one.name) for one in given)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within it no circles of objects are collected.

    Models that live for a moment hold so many objects that the collector looks at all that the process has every time
    that some hundreds were made. They are in no circles, so that they are freed as they are dropped.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _equal(one: Counts, other: Counts) -> bool:
    """Whether two counts agree in every number; names in the file's header may differ in hybrids by a few bytes."""
    near = abs(one.checkpoint_bytes - other.checkpoint_bytes) <= _HEADER_SHARE * other.checkpoint_bytes
    return near and replace(one, checkpoint_bytes=0) == replace(other, checkpoint_bytes=0)
