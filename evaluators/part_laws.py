"""What one part brings to a model, by a law that was tried: exact, and mostly without building the model.

Most methods bring to a module what that module's shape says, whatever else they are put on. So what a method brings to
one module is found once, by injecting it into a stub that holds this module alone, and then added up. Methods whose
modules share tensors are injected into a stub with two of each kind, which tells what is shared. Where modules share in
groups, or whole layers are wrapped, the stub holds all modules of the part under their own names. Prompts stand before
a copy of the model that shares all but its modules. No law is believed: each is tried against the model built whole on
`meta`, on all that the method is for; where they differ, whole builds it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from evaluators.attach import REFUSALS, attach, inject
from evaluators.hybrid_names import ALONE, Placed, Tensors
from evaluators.model_copies import outline_of
from evaluators.part_plan import Kind, Plan, names_modules
from evaluators.saved import Saved, by_place, own_tensors, saved_as, storage_of
from evaluators.size_formulas import Bring, Brought, Formulas, Sizes
from evaluators.stub import Skeleton, Stub
from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.errors import PlacementError, UnsupportedError
from search_space.placement import Anatomy, Layers, Placement
from search_space.registry import method

Law = Literal["alone", "shared", "in place", "outlined", "whole"]
"""How a method's numbers are found: module by module, with shared ones beside them, or all at once in less than all."""

_SUMS: tuple[Law, ...] = ("alone", "shared")
_WIDE = 2
"""Layers that a wide candidate is put on: enough to see what layers share."""

_INPUTS, _OUTPUTS = ".inputs", ".outputs"
"""The widths of a module, beside the arguments of a part; those are named without a point."""

_LAYERS = ".layers"
"""How many layers a prompt is for, beside its knobs."""


@dataclass(frozen=True)
class Held:
    """What a part brings to one place.

    Attributes:
        trained: Trainable numbers.
        placed: Tensors that are saved, trainable or not, without the head.
        head: The head's tensors, where the part gives them other names.
    """

    trained: int = 0
    placed: tuple[Placed, ...] = ()
    head: tuple[Saved, ...] = ()


class _Each:
    """What a part brings to each module of a kind, counted once."""

    def __init__(self, brought: Brought) -> None:
        self.trained, self.tensors = brought.numbers, Tensors(brought.saved)


class PartLaws:
    """Finds what parts bring to one model, each by the law of its method.

    Attributes:
        built: How many candidates were built whole so far.
    """

    def __init__(self, model: Any, anatomy: Anatomy, weigh: Callable[[Part, Held], object]) -> None:
        """Look at a frozen classifier on `meta`.

        Args:
            model: The classifier.
            anatomy: What it offers.
            weigh: Returns everything that is counted of a part that stands alone: what laws are tried by.
        """
        self._model, self._anatomy, self._weigh = model, anatomy, weigh
        self._modules = dict(model.named_modules())
        self._type = str(model.config.model_type)
        self._storages = frozenset(map(storage_of, model.state_dict().values()))
        texts: dict[str, int] = {}
        self._kinds = {
            site.name: texts.setdefault(_text(self._modules[site.name]), len(texts)) for site in anatomy.sites
        }
        self._laws: dict[Any, Law] = {}
        self._tried: set[tuple[str, Law]] = set()
        self._formulas = Formulas()
        self._heads: dict[object, tuple[Saved, ...]] = {}
        self._alone: dict[tuple[str, str, Kind], _Each] = {}
        self._shared: dict[tuple[str, str, frozenset[Kind]], tuple[_Shared, dict[Kind, _Each]]] = {}
        self._parts: dict[Part, Held] = {}
        self.built = 0

    def law(self, plan: Plan) -> Law | None:
        """Return the law of a part, found with its first; None while nothing wide can be built to try one on."""
        key = plan.law_key
        if key not in self._laws:
            self._settle(plan)
        return self._laws.get(key)

    def held(self, plan: Plan) -> Held:
        """Return what a part brings on its own, by its law, which is known."""
        if plan.part not in self._parts:
            law = self._laws[plan.law_key]
            self._parts[plan.part] = self._by(plan, law) or self.build((plan.part,))
        return self._parts[plan.part]

    def build(self, parts: tuple[Part, ...]) -> Held:
        """Build parts whole; the head is left out."""
        self.built += 1
        brought, head = self._built(parts)
        return Held(brought.numbers, (Placed("", Tensors(brought.saved)),), head)

    def _built(self, parts: tuple[Part, ...], left_out: Sequence[str] = ()) -> tuple[Brought, tuple[Saved, ...]]:
        """Build parts. Returns what they bring, and the tensors of the head.

        Args:
            parts: What is attached.
            left_out: Names of modules that stand in the model as empty ones.
        """
        candidate, outlined = Candidate(parts, Recipe((1e-3,) * len(parts))), partial(outline_of, left_out=left_out)
        attached = attach(self._model, self._anatomy, candidate, copied_by=outlined)
        head = {storage_of(one) for one in attached.head}
        saved: dict[bool, list[Saved]] = {False: [], True: []}
        for names, one in own_tensors(attached.model, self._storages):
            saved[storage_of(one) in head].append(saved_as(names[0], one))
        trained = (tuple(one.shape) for part in attached.parts for one in part)
        return Brought(tuple(trained), tuple(saved[False])), tuple(saved[True])

    def _settle(self, plan: Plan) -> None:
        """Find how a method's numbers add up: by building it whole on a few layers, once for each way."""
        key, laws = plan.law_key, _laws_of(plan)
        if not laws:
            self._laws[key] = "whole"
        elif "alone" in laws and (tried := self._tried_before(plan)):
            self._laws[key] = tried
        elif wide := self._wide(plan.part, _WIDE):
            found: Law = next((law for law in laws if self._holds(law, *wide)), "whole")
            if found not in ("alone", "whole") and plan.rule.placement.layers:
                found = self._on_all_layers(plan, found)
            self._laws[key] = found
            self._tried.add((plan.rule.name, found))

    def _on_all_layers(self, plan: Plan, found: Law) -> Law:
        """Return the law of a method that has one on a few layers; on all it may be another.

        In place nothing is added up: that it held on all layers at other knobs is enough.
        """
        if found == "in place" and (plan.rule.name, found) in self._tried:
            return found
        laws: tuple[Law, ...] = (found, "in place") if found == "shared" else (found,)
        wide = self._wide(plan.part)
        return next((law for law in laws if wide and self._holds(law, *wide)), "whole")

    def _tried_before(self, plan: Plan) -> Law | None:
        """Return the way that holds for this method at other knobs, where stubs tell that it is the right one here."""
        wide = next(self._twins(plan.part, _WIDE), None) if (plan.rule.name, "alone") in self._tried else None
        alone, shared = (None, None) if wide is None else (self._by(wide, "alone"), self._by(wide, "shared"))
        if alone is None or shared is None:
            return None
        return "alone" if _size(alone) == _size(shared) else None

    def _holds(self, law: Law, plan: Plan, built: Held) -> bool:
        held = self._by(plan, law)
        return held is not None and self._weigh(plan.part, held) == self._weigh(plan.part, built)

    def _wide(self, part: Part, most: int | None = None) -> tuple[Plan, Held] | None:
        """Put a part on all that its method is for, in the first layers or in all; None where it cannot be."""
        for twin in self._twins(part, most):
            with suppress(UnsupportedError, PlacementError):
                return twin, self.build((twin.part,))
        return None

    def _twins(self, part: Part, most: int | None = None) -> Iterator[Plan]:
        """Yield a part where its method may go, widest first, in the first layers or in all."""
        rule = method(part.method)
        some = most and most < self._anatomy.n_layers and rule.placement.layers
        layers = Layers("first", (most,)) if some and most else Layers()
        everything = [one for text in rule.placement.projections for one in Placement.parse(text).projections]
        present = set(self._anatomy.projections)
        for projections in ([one for one in everything if one in present], part.placement.projections):
            with suppress(UnsupportedError, PlacementError):
                placement = Placement(tuple(dict.fromkeys(projections)), layers)
                yield Plan.of(replace(part, knobs=_in_one_size(part), placement=placement), self._anatomy)

    def _by(self, plan: Plan, law: Law) -> Held | None:
        """Return what a part brings by a law; None where it cannot tell, and the whole build says why."""
        try:
            if law in _SUMS:
                return self._add(plan, law)
            if law == "in place":
                return self._in_place(plan)
            return self._outlined(plan) if law == "outlined" else None
        except (*REFUSALS, UnsupportedError, _NotAlikeError):
            return None

    def _add(self, plan: Plan, law: Law) -> Held:
        """Add up what a part brings to each module."""
        kinds = plan.kinds(self._kinds)
        if law == "alone":
            once, each = _Shared(), self._on_each(plan, kinds)
        else:
            once, each = self._on_two(plan, kinds)
        firsts = _firsts(kinds) if once.tensors else {}
        shared = (Placed(firsts[kind] if kind else "", one) for kind, one in once.tensors)
        placed = (Placed(name, each[kind].tensors) for name, kind in kinds.items())
        trained = once.trained + sum(each[kind].trained for kind in kinds.values())
        return Held(trained, (*shared, *placed))

    def _on_each(self, plan: Plan, kinds: Mapping[str, Kind]) -> dict[Kind, _Each]:
        """Return what a part brings to a module of each kind, which no other has a share of."""
        scalars, found = plan.scalars, {}
        for kind in dict.fromkeys(kinds.values()):
            key = (plan.rule.name, scalars, kind)
            if key not in self._alone:
                name = next(name for name, one in kinds.items() if one == kind)
                self._alone[key] = _Each(self._formulas.find(*self._experiment(plan, kind, name)))
            found[kind] = self._alone[key]
        return found

    def _experiment(self, plan: Plan, kind: Kind, name: str) -> tuple[object, Sizes, Bring, set[int]]:
        """Return what is asked of formulas: what a part brings to one module of a kind."""
        module: Any = self._modules[name]
        sizes = plan.sizes
        widths = {_INPUTS: module.in_features, _OUTPUTS: module.out_features} if type(module) is nn.Linear else {}
        alike: object = (module.bias is None, str(module.weight.dtype), kind[1]) if widths else kind

        def bring(at: Sizes) -> Brought:
            arguments = {one: value for one, value in at.items() if one in sizes}
            resized = replace(plan, arguments={**plan.arguments, **arguments})
            others = {"0": _linear(module, at)} if any(at[one] != width for one, width in widths.items()) else {}
            return self._stubbed(resized, {"0": name}, others)[1]["0"]

        return (plan.rule.name, plan.flags, alike), {**sizes, **widths}, bring, set() if widths else _lengths(module)

    def _on_two(self, plan: Plan, kinds: Mapping[str, Kind]) -> tuple[_Shared, dict[Kind, _Each]]:
        key = (plan.rule.name, plan.scalars, frozenset(kinds.values()))
        if key not in self._shared:
            firsts = _firsts(kinds)
            places = {f"{at}{copy}": name for at, name in enumerate(firsts.values()) for copy in "ab"}
            once, brought = self._stubbed(plan, places)
            if any(brought[f"{at}a"] != brought[f"{at}b"] for at in range(len(firsts))):
                raise _NotAlikeError
            each = {kind: _Each(brought[f"{at}a"]) for at, kind in enumerate(firsts)}
            kind_at = {f"m.{at}{copy}": kind for at, kind in enumerate(firsts) for copy in "ab"}
            self._shared[key] = _Shared.of(once, kind_at), each
        return self._shared[key]

    def _stubbed(
        self, plan: Plan, places: Mapping[str, str], others: Mapping[str, nn.Module] | None = None
    ) -> tuple[Brought, dict[str, Brought]]:
        """Inject a part into a stub. Returns what its modules share, and what each place has for itself.

        Args:
            plan: The part.
            places: Names of modules, by the places where they stand in the stub.
            others: Modules that take the place of the model's own.
        """
        others = others or {}
        stub = Stub(self._type, ((f"m.{at}", self._modules[name]) for at, name in places.items() if at not in others))
        for place, module in others.items():
            stub.put(f"m.{place}", module)
        arguments: dict[str, Any] = {}
        for place, name in places.items():
            for key, value in plan.renamed({name: f"m.{place}"}).items():
                arguments[key] = _joined(arguments.get(key), value) if names_modules(value) else value
        known = frozenset(map(storage_of, stub.parameters())) | self._storages
        changed, trained = _injected(stub, plan.part, arguments)
        holders: dict[int, set[str]] = {}
        for place in places:
            for one in changed.get_submodule(f"m.{place}").parameters():
                holders.setdefault(id(one), set()).add(place)
        shapes: dict[str, list[tuple[int, ...]]] = {place: [] for place in ("", *places)}
        for number, one in trained.items():
            owners = holders.get(number, set())
            shapes[next(iter(owners)) if len(owners) == 1 else ""].append(tuple(one.shape))
        saved = by_place(changed, known, [f"m.{place}" for place in places])
        each = {place: Brought(tuple(shapes[place]), saved[f"m.{place}"]) for place in places}
        return Brought(tuple(shapes[""]), saved[""]), each

    def _in_place(self, plan: Plan) -> Held:
        """Inject a part into a model with nothing in it but the modules that the part is on, all under their names."""

        def bring(at: Sizes) -> Brought:
            skeleton = Skeleton(self._type, self._modules, names)
            changed, trained = _injected(skeleton, plan.part, {**plan.arguments, **at})
            saved = tuple(saved_as(names[0], one) for names, one in own_tensors(changed, self._storages))
            return Brought(tuple(tuple(one.shape) for one in trained.values()), saved)

        names = plan.names
        beside = {length for name in names for length in _lengths(self._modules[name])}
        brought = self._formulas.find((plan.rule.name, plan.flags, tuple(names)), plan.sizes, bring, beside)
        return Held(brought.numbers, (Placed("", Tensors(brought.saved)),))

    def _outlined(self, plan: Plan) -> Held:
        """Put a prompt before a copy of the model that has nothing in its layers."""
        part, blocks = plan.part, self._anatomy.blocks_in(plan.part.placement.layers)
        sizes = {name: value for name, value in part.knobs if type(value) is int and value > 0}
        others = tuple(pair for pair in part.knobs if pair[0] not in sizes)
        if plan.rule.placement.layers:
            sizes[_LAYERS] = len(blocks)
        alike = frozenset((block.stack, block.hidden_size) for block in blocks)
        kind = (part.method, others, alike, len(blocks) == self._anatomy.n_layers)

        def bring(at: Sizes) -> Brought:
            resized = tuple((name, at.get(name, value)) for name, value in part.knobs)
            many = at.get(_LAYERS, len(blocks))
            layers = Layers("first", (many,)) if many != len(blocks) else part.placement.layers
            one = replace(part, knobs=resized, placement=replace(part.placement, layers=layers))
            brought, self._heads[kind] = self._built((one,), [block.name for block in self._anatomy.blocks])
            return brought

        brought = self._formulas.find(kind, sizes, bring)
        return Held(brought.numbers, (Placed("", Tensors(brought.saved)),), self._heads[kind])


class _NotAlikeError(Exception):
    """Two modules of one kind were not treated alike."""


@dataclass(frozen=True)
class _Shared:
    """What modules share, once for all of them.

    Attributes:
        trained: Trainable numbers.
        tensors: What is saved, by the kind of the first module that holds it; None where none does.
    """

    trained: int = 0
    tensors: tuple[tuple[Kind | None, Tensors], ...] = ()

    @classmethod
    def of(cls, brought: Brought, kind_at: Mapping[str, Kind]) -> _Shared:
        """Find the kinds of what was brought, from those of the places in the stub."""
        held: list[tuple[Kind | None, Tensors]] = []
        for one in brought.saved:
            holder = next((place for place in kind_at if one.name.startswith(f"{place}.")), "")
            held.append((kind_at.get(holder), Tensors((one._replace(name=one.name[len(holder) :]),))))
        return cls(brought.numbers, tuple(held))


def _laws_of(plan: Plan) -> tuple[Law, ...]:
    """Return the laws that may hold for a method, the cheapest first."""
    if plan.rule.route in ("head", "full"):
        return ()
    if plan.rule.route == "prompt":
        return ("outlined",)
    return (*_SUMS, "in place") if plan.sites and plan.rule.adds_up else ("in place",)


def _injected(stub: nn.Module, part: Part, arguments: Mapping[str, Any]) -> tuple[nn.Module, dict[int, nn.Parameter]]:
    """Inject a part, alone. Returns what has it, and what it trains."""
    known = {id(one) for one in stub.parameters()}
    changed = inject(stub, part, arguments, ALONE)
    return changed, {id(one): one for one in changed.parameters() if one.requires_grad and id(one) not in known}


def _linear(like: Any, sizes: Sizes) -> nn.Module:
    """Return a linear module of other widths, on `meta`."""
    bias, dtype = like.bias is not None, like.weight.dtype
    return nn.Linear(sizes[_INPUTS], sizes[_OUTPUTS], bias, "meta", dtype).requires_grad_(False)


def _lengths(module: nn.Module) -> set[int]:
    """Return the lengths of all axes of a module's tensors."""
    return {length for one in module.parameters() for length in one.shape}


def _in_one_size(part: Part) -> tuple[tuple[str, KnobValue], ...]:
    return tuple((name, max(value) if isinstance(value, tuple) else value) for name, value in part.knobs)


def _size(held: Held) -> tuple[int, int]:
    return held.trained, sum(len(one.tensors.saved) for one in held.placed)


def _text(module: nn.Module) -> str:
    """Return what a module's numbers depend on, as text."""
    shapes = [(name, tuple(one.shape), str(one.dtype)) for name, one in module.named_parameters()]
    return f"{type(module).__name__}({module.extra_repr()}){shapes}"


def _firsts(kinds: Mapping[str, Kind]) -> dict[Kind, str]:
    """Return the first module of each kind, in the order of the model."""
    firsts: dict[Kind, str] = {}
    for name, kind in kinds.items():
        firsts.setdefault(kind, name)
    return firsts


def _joined(one: Any, other: Any) -> Any:
    if one is None:
        return other
    return {**one, **other} if isinstance(other, Mapping) else [*one, *other]
