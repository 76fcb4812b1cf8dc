"""Shapes of tensors as products of sizes: found from a few injections, and tried on more.

A LoRA of rank r on a module of d inputs brings a tensor of r by d. That is not written down for any method but found: a
part is injected at sizes that are primes, and what divides the length of an axis says what it is the product of. A
formula must also give what the part brought at two other sizes or more, and once more wherever sizes come in another
order, since the lesser of two is no product. What has to divide something cannot be injected at primes and has no
formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import NamedTuple

from evaluators.attach import REFUSALS
from evaluators.saved import Saved
from search_space.errors import ParetuneError

Sizes = Mapping[str, int]
"""What shapes may be products of, by name."""
Shape = tuple[int, ...]

_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67)
_MOST_FACTORS = 2
_Axis = tuple[int, tuple[str, ...]]
"""A length: a number, and the sizes that it is multiplied with."""


@dataclass(frozen=True)
class Brought:
    """What a part brings to a module, or to several together.

    Attributes:
        trained: Shapes of what is trained.
        saved: Tensors that are saved; names begin at the module.
    """

    trained: tuple[Shape, ...] = ()
    saved: tuple[Saved, ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(map(prod, self.trained))

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All shapes, of what is trained and of what is saved."""
        return (*self.trained, *(one.shape for one in self.saved))

    def reshaped(self, shapes: tuple[Shape, ...]) -> Brought:
        """Return this with other shapes."""
        trained, saved = shapes[: len(self.trained)], shapes[len(self.trained) :]
        renewed = (one._replace(shape=shape) for one, shape in zip(self.saved, saved, strict=True))
        return Brought(trained, tuple(renewed))

    def is_like(self, other: Brought) -> bool:
        """Whether two differ in lengths alone."""
        ranks = [tuple(map(len, one.shapes)) for one in (self, other)]
        named = [[(tensor.name, tensor.dtype) for tensor in one.saved] for one in (self, other)]
        return ranks[0] == ranks[1] and named[0] == named[1] and len(self.trained) == len(other.trained)


Bring = Callable[[Sizes], Brought]
"""Injects a part at some sizes. Raises where it is refused."""


class _Formula:
    """Gives what a part brings from sizes alone."""

    def __init__(self, like: Brought, axes: tuple[tuple[_Axis, ...], ...]) -> None:
        self._like, self._axes = like, axes
        self.tried: set[tuple[int, ...]] = set()

    def at(self, sizes: Sizes) -> Brought:
        """Return what the part brings at some sizes."""
        lengths = (tuple(number * prod(sizes[name] for name in names) for number, names in axes) for axes in self._axes)
        return self._like.reshaped(tuple(lengths))

    @classmethod
    def between(cls, pairs: tuple[tuple[Sizes, Brought], tuple[Sizes, Brought]]) -> _Formula | None:
        """Find the formula of which two cases are, if they can be of one."""
        (sizes, one), (others, other) = pairs
        if not one.is_like(other):
            return None
        found = []
        for shapes in zip(one.shapes, other.shapes, strict=True):
            axes = [_axis((sizes, others), lengths) for lengths in zip(*shapes, strict=True)]
            if any(axis is None for axis in axes):
                return None
            found.append(tuple(axis for axis in axes if axis is not None))
        return cls(one, tuple(found))


class _Case(NamedTuple):
    """What was brought at some sizes, and the order that these are in."""

    order: tuple[int, ...]
    sizes: Sizes
    brought: Brought


class Formulas:
    """The formulas of the methods on one model, each as soon as it is known."""

    def __init__(self) -> None:
        self._cases: dict[object, list[_Case]] = {}
        self._known: dict[object, _Formula | None] = {}

    def find(self, kind: object, sizes: Sizes, bring: Bring, beside: Iterable[int] = ()) -> Brought:
        """Return what a part brings at some sizes: by a formula where that was tried, else by injecting it.

        A formula is looked for when it can first be used: with the third case, where an earlier one is of its order.

        Args:
            kind: What cases of one formula have in common.
            sizes: The sizes.
            bring: Injects it. What it raises at these sizes is raised.
            beside: Lengths that stay as they are, which sizes may be less or greater than.
        """
        order = _order(sizes, tuple(sorted(set(beside))))
        before = self._cases.setdefault(kind, [])
        if kind not in self._known and len(before) > 1 and any(case.order == order for case in before):
            self._known[kind] = _found(before, bring)
        formula = self._known.get(kind)
        if formula is not None and order in formula.tried:
            return formula.at(sizes)
        brought = bring(sizes)
        if kind not in self._known:
            before.append(_Case(order, sizes, brought))
        elif formula is not None:
            formula.tried.add(order)
            if formula.at(sizes) != brought:
                self._known[kind] = None
        return brought


def _found(cases: Sequence[_Case], bring: Bring) -> _Formula | None:
    """Return the formula of all cases, found from the first and from what is brought at primes in its place."""
    sizes = cases[0].sizes
    if not 0 < len(sizes) <= len(_PRIMES):
        return None
    primes = dict(zip(sorted(sizes, key=lambda name: sizes[name]), _PRIMES, strict=False))
    try:
        formula = _Formula.between(((primes, bring(primes)), (sizes, cases[0].brought)))
    except (*REFUSALS, ParetuneError):
        return None
    if formula is None or any(formula.at(case.sizes) != case.brought for case in cases):
        return None
    formula.tried.update(case.order for case in cases)
    return formula


def _axis(cases: tuple[Sizes, Sizes], lengths: tuple[int, ...]) -> _Axis | None:
    """Return what the lengths of an axis in two cases are the product of, the fewest factors there can be."""
    for count in range(_MOST_FACTORS + 1):
        for names in combinations(cases[0], count):
            factors = [prod(sizes[name] for name in names) for sizes in cases]
            number = lengths[0] // factors[0]
            if all(number * factor == length for factor, length in zip(factors, lengths, strict=True)):
                return number, names
    return None


def _order(sizes: Sizes, beside: tuple[int, ...]) -> tuple[int, ...]:
    """Return the order that sizes, other lengths, their greatest product and one are in, and which are equal."""
    lengths = (*sizes.values(), *beside)
    values = [1, *lengths, prod(sorted(lengths)[-_MOST_FACTORS:])]
    ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return tuple(ranks[value] for value in values)
