"""How many numbers a candidate trains and keeps: exact, and mostly without building the model.

Most methods bring to a module what that module's shape says, whatever else they are put on. So what a method brings to
one module is found once, by injecting it into a stub that holds this module alone, and then added up. Methods whose
modules share tensors are injected into a stub with two of each kind, which tells what is shared. Whether a sum is right
is not believed but tried: each method is built whole on `meta` as well, on all that it is for, and so are the first two
parts of each pair of methods, on modules that they share and on others; where they differ, whole builds it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import Any, Literal, NamedTuple

from torch import nn

from evaluators.attach import REFUSALS, adapters_of, attach, inject, is_of_head
from evaluators.backbone import head_of
from evaluators.deployed import Kept, deployed_params
from evaluators.saved import Saved, by_place, file_bytes, own_tensors, saved_as, storage_of
from evaluators.stub import Stub
from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.carrying import is_per_task
from search_space.errors import PlacementError, UnsupportedError
from search_space.placement import Anatomy, Layers, Placement, Site
from search_space.registry import PER_TASK, Method, Targets, method
from search_space.space import resolve
from search_space.spread import in_one_size

Law = Literal["alone", "shared", "whole"]
"""How a method's numbers add up: module by module, with shared ones beside them, or not at all."""

_SUMS: tuple[Law, ...] = ("alone", "shared")
_WIDE = 2
"""Layers that a wide candidate is put on: enough to see what layers share."""
_HEADER_SHARE = 0.01
_COVERED = ".base_layer"
"""What peft calls a module within its wrapper."""
_WITHIN_PROMPT = "base_model."
"""What it calls the model that a prompt stands before."""


@dataclass(frozen=True)
class Held:
    """What a part brings to one place.

    Attributes:
        trained: Trainable numbers.
        saved: Tensors that are saved, trainable or not, without the head; names begin at the place.
        head: The head's tensors, where the part gives them other names.
    """

    trained: int = 0
    saved: tuple[Saved, ...] = ()
    head: tuple[Saved, ...] = ()


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


@dataclass(frozen=True)
class _Plan:
    """A part brought down to what its numbers depend on: scalar arguments, and what is said of each module."""

    part: Part
    rule: Method
    arguments: Mapping[str, Any]
    sites: tuple[Site, ...]

    @property
    def law_key(self) -> tuple[str, tuple[KnobValue, ...]]:
        """What the law may depend on: the method, and the knobs that make it another method."""
        return self.rule.name, tuple(self.part[knob.name] for knob in self.rule.knobs if knob.low is None)

    @property
    def scalars(self) -> str:
        """The arguments that name no module, as text."""
        return repr(sorted((name, value) for name, value in self.arguments.items() if not self._places(value)))

    def said_of(self, name: str) -> str:
        """Return what the arguments say of one module, as text."""
        places = ((key, value) for key, value in self.arguments.items() if self._places(value) and name in value)
        return repr(sorted((key, value[name] if isinstance(value, Mapping) else True) for key, value in places))

    def renamed(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments with other names of modules; what is said of others is left out."""
        return {key: _renamed(value, names) if self._places(value) else value for key, value in self.arguments.items()}

    @staticmethod
    def _places(value: object) -> bool:
        return isinstance(value, list | Mapping)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {names[key]: one for key, one in value.items() if key in names}
    return [names[one] for one in value if one in names]


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
    def of(cls, plans: Sequence[_Plan]) -> _Stand:
        """Look at a part's plans."""
        names = [site.name for plan in plans for site in plan.sites]
        sites = frozenset(names)
        return cls(tuple(plan.rule.name for plan in plans), sites, len(sites) < len(names))


class Counter:
    """Counts candidates on one model.

    Attributes:
        built: How many candidates were built whole so far.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Look at a frozen classifier on `meta`, of the types in which it will be trained."""
        self._model, self._anatomy = model, anatomy
        self._heads = head_of(model)
        self._head = tuple(
            Saved(f"{name}.{key}", "F32", tuple(one.shape))
            for name in self._heads
            for key, one in model.get_submodule(name).named_parameters()
        )
        self._storages = frozenset(map(storage_of, model.state_dict().values()))
        self._kinds = {site.name: _kind(model.get_submodule(site.name)) for site in anatomy.sites}
        self._laws: dict[Any, Law] = {}
        self._tried: set[tuple[str, Law]] = set()
        self._sums_up: dict[tuple[tuple[str, ...], bool], bool] = {}
        self._alone: dict[tuple[str, str, str], Held] = {}
        self._shared: dict[tuple[str, str, frozenset[str]], tuple[Held, dict[str, Held]]] = {}
        self._parts: dict[Part, Held] = {}
        self._known: dict[tuple[Part, ...], Counts | UnsupportedError] = {}
        self.built = 0

    def count(self, candidate: Candidate) -> Counts:
        """Count a candidate. Raises UnsupportedError or PlacementError where the model cannot carry it."""
        parts = tuple(map(self._canonical, candidate.parts))
        if parts not in self._known:
            try:
                self._known[parts] = self._count(parts)
            except UnsupportedError as error:
                self._known[parts] = error
        known = self._known[parts]
        if isinstance(known, UnsupportedError):
            raise known
        return known

    def whole(self, parts: tuple[Part, ...]) -> Counts:
        """Count by building the model whole on `meta`: what sums are checked against."""
        return self._counts(self._built(parts), parts)

    def _canonical(self, part: Part) -> Part:
        """Return a part with the knobs that change no shape at their defaults."""
        rule = method(part.method)
        rule.check(part)
        shapeless = {knob.name: knob.default for knob in rule.knobs if not knob.shapes}
        return replace(part, knobs=tuple({**dict(part.knobs), **shapeless}.items())) if shapeless else part

    def _pieces(self, part: Part, name: str) -> list[tuple[str, Part]]:
        """Return the parts of one size each that a part is attached as, with the names of their adapters."""
        if method(part.method).route != "inject":
            return [(name, part)]
        shared = replace(part, knobs=tuple({**dict(part.knobs), PER_TASK.name: False}.items()))
        one = shared if is_per_task(part) else part
        return [
            (each, piece)
            for each in adapters_of(part, name, self._anatomy)
            for piece in in_one_size(one, self._anatomy)
        ]

    def _count(self, parts: tuple[Part, ...]) -> Counts:
        pieces = [self._pieces(part, f"part{at}") for at, part in enumerate(parts)]
        of_parts = [[self._plan(piece) for _, piece in some] for some in pieces]
        plans, names = [plan for some in of_parts for plan in some], [name for some in pieces for name, _ in some]
        for plan in plans:
            self._settle(plan)
        if any(plan.law_key not in self._laws for plan in plans):
            return self.whole(parts)  # nothing wide could be built to try sums on: the next may tell more
        if len(plans) == 1 and self._laws[plans[0].law_key] == "whole":
            return self._counts(self._held(plans[0]), parts)
        if len(plans) > 1 and any(plan.rule.route == "full" for plan in plans):
            return self.whole(parts)
        stands = list(map(_Stand.of, of_parts))
        if len(parts) > 2:
            pairs = combinations(zip(parts, stands, strict=True), 2)
            apart = all(self._are_apart(*one, *other) for one, other in pairs)
            return self._counts(self._sum(plans, names), parts) if apart else self.whole(parts)
        kind = _together(*stands)
        if self._sums_up.get(kind) is False:
            return self.whole(parts)
        counts = self._counts(self._sum(plans, names), parts)
        if kind not in self._sums_up:
            built = self.whole(parts)
            self._sums_up[kind] = _equal(counts, built)
            return built
        return counts

    def _are_apart(self, one: Part, stand: _Stand, other: Part, beside: _Stand) -> bool:
        """Whether two parts bring together what each brings alone, tried with the first two of their kind.

        Pairs are enough for any number of parts: of which no two share a number, all bring the sum.
        """
        kind = _together(stand, beside)
        if kind not in self._sums_up:
            self._count((one, other))
        return self._sums_up.get(kind, False)

    def _plan(self, part: Part) -> _Plan:
        rule, targets = method(part.method), resolve(part, self._anatomy)
        return _Plan(part, rule, rule.config(part, targets), self._touched(rule, targets))

    def _touched(self, rule: Method, targets: Targets) -> tuple[Site, ...]:
        return targets.sites if rule.route == "inject" else ()

    def _settle(self, plan: _Plan) -> None:
        """Find how a method's numbers add up: by building it whole on a few layers, once for each way."""
        if plan.law_key in self._laws:
            return
        if plan.rule.route in ("head", "full") or not plan.sites or not plan.rule.adds_up:
            self._laws[plan.law_key] = "whole"
        elif tried := self._tried_before(plan):
            self._laws[plan.law_key] = tried
        elif wide := self._wide(plan.part, _WIDE):
            found: Law = next((law for law in _SUMS if self._holds(law, *wide)), "whole")
            if found == "shared" and not ((whole := self._wide(plan.part)) and self._holds(found, *whole)):
                found = "whole"
            self._laws[plan.law_key] = found
            self._tried.add((plan.rule.name, found))

    def _tried_before(self, plan: _Plan) -> Law | None:
        """Return the way that holds for this method at other knobs, where stubs tell that it is the right one here."""
        wide = next(self._twins(plan.part, _WIDE), None) if (plan.rule.name, "alone") in self._tried else None
        alone, shared = (None, None) if wide is None else (self._add(wide, "alone"), self._add(wide, "shared"))
        if alone is None or shared is None:
            return None
        return "alone" if (alone.trained, len(alone.saved)) == (shared.trained, len(shared.saved)) else None

    def _holds(self, law: Law, plan: _Plan, built: Held) -> bool:
        held = self._add(plan, law)
        return held is not None and _equal(self._counts(held, (plan.part,)), self._counts(built, (plan.part,)))

    def _wide(self, part: Part, most: int | None = None) -> tuple[_Plan, Held] | None:
        """Put a part on all that its method is for, in the first layers or in all; None where it cannot be."""
        for twin in self._twins(part, most):
            with suppress(UnsupportedError, PlacementError):
                return twin, self._built((twin.part,))
        return None

    def _twins(self, part: Part, most: int | None = None) -> Iterator[_Plan]:
        """Yield a part where its method may go, widest first, in the first layers or in all."""
        rule = method(part.method)
        layers = Layers("first", (most,)) if most and most < self._anatomy.n_layers else Layers()
        everything = [one for text in rule.placement.projections for one in Placement.parse(text).projections]
        present = set(self._anatomy.projections)
        for projections in ([one for one in everything if one in present], part.placement.projections):
            with suppress(UnsupportedError, PlacementError):
                yield self._plan(replace(part, placement=Placement(tuple(dict.fromkeys(projections)), layers)))

    def _sum(self, plans: Sequence[_Plan], names: Iterable[str]) -> Held:
        held = [self._held(plan) for plan in plans]
        within = _WITHIN_PROMPT if any(plan.rule.route == "prompt" for plan in plans) else ""
        saved = (
            _named(one, name, covers, "" if plan.rule.route == "prompt" else within)
            for name, plan, part, covers in zip(names, plans, held, _wrapped(plans), strict=True)
            for one in part.saved
        )
        head = next((one.head for one in held if one.head), ())
        return Held(sum(one.trained for one in held), tuple(saved), head)

    def _held(self, plan: _Plan) -> Held:
        """Return what a part holds on its own, by its law."""
        if plan.part not in self._parts:
            law = self._laws[plan.law_key]
            held = self._add(plan, law) if law != "whole" else None
            self._parts[plan.part] = held or self._built((plan.part,))
        return self._parts[plan.part]

    def _add(self, plan: _Plan, law: Law) -> Held | None:
        """Add up what a part brings to each module; None where a stub cannot tell."""
        kinds = {site.name: self._kinds[site.name] + plan.said_of(site.name) for site in plan.sites}
        try:
            if law == "alone":
                once, each = Held(), {kind: self._on_one(plan, kind, kinds) for kind in set(kinds.values())}
            else:
                once, each = self._on_two(plan, kinds)
        except (*REFUSALS, UnsupportedError, _NotAlikeError):  # the whole build says why
            return None
        firsts = _firsts(kinds)
        once = replace(once, saved=tuple(one._replace(name=_rooted(one.name, firsts)) for one in once.saved))
        placed = (one._replace(name=name + one.name) for name, kind in kinds.items() for one in each[kind].saved)
        trained = once.trained + sum(each[kind].trained for kind in kinds.values())
        return Held(trained, (*once.saved, *placed))

    def _on_one(self, plan: _Plan, kind: str, kinds: Mapping[str, str]) -> Held:
        key = (plan.rule.name, plan.scalars, kind)
        if key not in self._alone:
            name = next(name for name, one in kinds.items() if one == kind)
            _, held = self._stubbed(plan, {"0": name})
            self._alone[key] = held["0"]
        return self._alone[key]

    def _on_two(self, plan: _Plan, kinds: Mapping[str, str]) -> tuple[Held, dict[str, Held]]:
        key = (plan.rule.name, plan.scalars, frozenset(kinds.values()))
        if key not in self._shared:
            firsts = _firsts(kinds)
            places = {f"{at}{copy}": name for at, name in enumerate(firsts.values()) for copy in "ab"}
            once, held = self._stubbed(plan, places)
            each = {kind: held[f"{at}a"] for at, kind in enumerate(firsts)}
            if any(held[f"{at}b"] != each[kind] for at, kind in enumerate(firsts)):
                raise _NotAlikeError
            kind_at = {f"m.{at}{copy}": kind for at, kind in enumerate(firsts) for copy in "ab"}
            named = tuple(one._replace(name=_under_kind(one.name, kind_at)) for one in once.saved)
            self._shared[key] = replace(once, saved=named), each
        return self._shared[key]

    def _stubbed(self, plan: _Plan, places: Mapping[str, str]) -> tuple[Held, dict[str, Held]]:
        """Inject a part into a stub. Returns what its modules share, and what each place has for itself."""
        stub = Stub(self._model, ((name, f"m.{place}") for place, name in places.items()))
        known = {id(one) for one in stub.parameters()}
        arguments: dict[str, Any] = {}
        for place, name in places.items():
            for key, value in plan.renamed({name: f"m.{place}"}).items():
                arguments[key] = _joined(arguments.get(key), value) if plan._places(value) else value
        changed = inject(stub, plan.part, arguments, "part0")
        trained = {
            id(one): one for one in changed.parameters() if one.requires_grad and id(one) not in known
        }  # fmt: skip
        holders: dict[int, set[str]] = {}
        for place in places:
            for one in changed.get_submodule(f"m.{place}").parameters():
                holders.setdefault(id(one), set()).add(place)
        numbers = dict.fromkeys(places, 0)
        common = 0
        for number, one in trained.items():
            if len(owners := holders.get(number, set())) == 1:
                numbers[next(iter(owners))] += one.numel()
            else:
                common += one.numel()
        saved = by_place(changed, self._storages, [f"m.{place}" for place in places])
        each = {place: Held(numbers[place], saved[f"m.{place}"]) for place in places}
        return Held(common, saved[""]), each

    def _built(self, parts: tuple[Part, ...]) -> Held:
        """Build parts whole; the head is left out."""
        self.built += 1
        attached = attach(self._model, self._anatomy, _candidate(parts))
        own = own_tensors(attached.model, self._storages)
        head = {storage_of(one) for one in attached.head}
        saved: dict[bool, list[Saved]] = {False: [], True: []}
        for names, one in own:
            saved[storage_of(one) in head].append(saved_as(names[0], one))
        return Held(attached.trainable_params, tuple(saved[False]), tuple(saved[True]))

    def _counts(self, held: Held, parts: tuple[Part, ...]) -> Counts:
        beside = [one for one in held.saved if not is_of_head(one.name, self._heads)]
        return Counts(
            held.trained,
            sum(prod(one.shape) for one in self._head),
            deployed_params(parts, (Kept(one.name, one.shape) for one in beside)),
            file_bytes((*held.saved, *(held.head or self._head))),
        )


class _NotAlikeError(Exception):
    """Two modules of one kind were not treated alike."""


def _candidate(parts: tuple[Part, ...]) -> Candidate:
    return Candidate(parts, Recipe((1e-3,) * len(parts)))


def _equal(one: Counts, other: Counts) -> bool:
    """Whether two counts agree in every number; names in the file's header may differ in hybrids by a few bytes."""
    near = abs(one.checkpoint_bytes - other.checkpoint_bytes) <= _HEADER_SHARE * other.checkpoint_bytes
    return near and replace(one, checkpoint_bytes=0) == replace(other, checkpoint_bytes=0)


def _kind(module: nn.Module) -> str:
    """Return what a module's numbers depend on, as text."""
    shapes = [(name, tuple(one.shape), str(one.dtype)) for name, one in module.named_parameters()]
    return f"{type(module).__name__}({module.extra_repr()}){shapes}"


def _firsts(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the first module of each kind, in the order of the model."""
    firsts: dict[str, str] = {}
    for name, kind in kinds.items():
        firsts.setdefault(kind, name)
    return firsts


def _under_kind(name: str, kind_at: Mapping[str, str]) -> str:
    """Return the name of a shared tensor with the kind of the module that holds it in the place of its name."""
    holder = next((place for place in kind_at if name.startswith(f"{place}.")), None)
    return name if holder is None else f"{kind_at[holder]}\n{name[len(holder) :]}"


def _rooted(name: str, firsts: Mapping[str, str]) -> str:
    """Return the name of a shared tensor with the first module of the kind that holds it."""
    kind, _, rest = name.rpartition("\n")
    return firsts[kind] + rest if kind else name


def _joined(one: Any, other: Any) -> Any:
    if one is None:
        return other
    return {**one, **other} if isinstance(other, Mapping) else [*one, *other]


def _named(saved: Saved, part: str, covers: Mapping[str, int], within: str) -> Saved:
    """Return a tensor under the name that it has as one of several parts."""
    name = saved.name.replace("part0", part)
    site = next((one for one in _prefixes(name) if one in covers), "")
    covered = site + _COVERED * covers[site] if site else ""
    return saved._replace(name=within + covered + name[len(site) :])


def _prefixes(name: str) -> Iterator[str]:
    """Yield the names of the modules that something is in, outermost first."""
    return (name[:at] for at, letter in enumerate(name) if letter == ".")


def _together(*stands: _Stand) -> tuple[tuple[str, ...], bool]:
    """Return what decides whether some parts bring the sum: their methods, and whether two stand on one module.

    There adapters may share what they have apart elsewhere.
    """
    methods = tuple(one for stand in stands for one in stand.methods)
    meet = any(stand.crowded for stand in stands) or any(a.sites & b.sites for a, b in combinations(stands, 2))
    return methods, meet


def _wrapped(plans: Sequence[_Plan]) -> list[dict[str, int]]:
    """Return for each part how many layers of other types stand around its own, by the names of the modules.

    A part of the type that wraps a module last goes into that wrapper; any other wraps it once more.
    """
    around: dict[str, list[str]] = {}
    levels: list[dict[str, int]] = []
    for plan in plans:
        for site in plan.sites:
            types = around.setdefault(site.name, [])
            if types[-1:] != [plan.rule.peft_type]:
                types.append(plan.rule.peft_type)
        levels.append({site.name: len(around[site.name]) for site in plan.sites})
    found = ({name: len(around[name]) - level for name, level in one.items()} for one in levels)
    return [{name: count for name, count in one.items() if count} for one in found]
