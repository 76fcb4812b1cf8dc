"""The names that tensors have in the file of a hybrid, and how long they make it.

A part that stands alone says `LAYER.lora_A.part0.weight`. Beside others it has another number, the layers of other
types that stand around its own put `.base_layer` before it, and a prompt puts `base_model.` before everything. So a
name, and with it what the header says of the tensor, follows from the part's own name and from what stands around.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from evaluators.saved import Entry, Saved, entry, length_of

ALONE = "part0"
"""What the adapter of a part that stands alone is called."""
_COVERED = ".base_layer"
"""What peft calls a module within its wrapper."""
_WITHIN_PROMPT = "base_model."
"""What it calls the model that a prompt stands before."""


@dataclass(frozen=True, eq=False)
class Tensors:
    """What a part saves at one place, or at any place like it; two are the same only where they are one object.

    Attributes:
        saved: The tensors, under names that begin at the place.
    """

    saved: tuple[Saved, ...] = ()

    @cached_property
    def numbers(self) -> int:
        """How many numbers they have."""
        return sum(prod(one.shape) for one in self.saved)

    def entries(self, adapter: str) -> tuple[Entry, ...]:
        """Return them as they stand in a file, under names that begin at the place, with the name of their adapter."""
        if adapter not in self._entries:
            self._entries[adapter] = tuple(entry(one, one.name.replace(ALONE, adapter)) for one in self.saved)
        return self._entries[adapter]

    @cached_property
    def _entries(self) -> dict[str, tuple[Entry, ...]]:
        return {}


class Placed(NamedTuple):
    """Tensors at a place: the name of a module, or an empty text where their names are whole."""

    place: str
    tensors: Tensors

    @property
    def saved(self) -> Iterator[Saved]:
        """The tensors under whole names."""
        return (one._replace(name=self.place + one.name) for one in self.tensors.saved)


class Around(NamedTuple):
    """Where a piece of a candidate stands among the others.

    Attributes:
        name: Of its adapter.
        covers: How many layers of other types stand around its own, by the names of the modules; absent where none.
        within: Whether a prompt stands before the model that it is in.
    """

    name: str
    covers: Mapping[str, int]
    within: bool


def entries_of(placed: Iterable[Placed], around: Around) -> Iterator[Entry]:
    """Yield a piece's tensors as they stand in the candidate's file, by the names that they have beside other parts."""
    for place, tensors in placed:
        if not place:
            yield from (entry(one, _named(one.name, around)) for one in tensors.saved)
            continue
        before = _named(f"{place}.", around)[:-1]
        longer = length_of(before)
        for dtype, name, header, size in tensors.entries(around.name):
            yield Entry(dtype, before + name, header + longer, size)


def _named(name: str, around: Around) -> str:
    """Return the name that a tensor has as one of several parts."""
    name = name.replace(ALONE, around.name)
    site = next((one for one in _prefixes(name) if one in around.covers), "") if around.covers else ""
    covered = site + _COVERED * around.covers[site] if site else ""
    return (_WITHIN_PROMPT if around.within else "") + covered + name[len(site) :]


def _prefixes(name: str) -> Iterator[str]:
    """Yield the names of the modules that something is in, outermost first."""
    return (name[:at] for at, letter in enumerate(name) if letter == ".")


def wrapped(pieces: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, int]]:
    """Return for each piece how many layers of other types stand around its own, by the names of the modules.

    A piece of the type that wraps a module last goes into that wrapper; any other wraps it once more.

    Args:
        pieces: The type of each, in order, and the names of its modules.
    """
    if len(pieces) == 1:
        return [{}]
    last: dict[str, str] = {}
    around: dict[str, int] = {}
    levels: list[list[int]] = []
    for peft_type, names in pieces:
        own = []
        for name in names:
            if last.get(name) != peft_type:
                last[name] = peft_type
                around[name] = around.get(name, 0) + 1
            own.append(around[name])
        levels.append(own)
    return [
        {name: around[name] - level for name, level in zip(names, own, strict=True) if around[name] > level}
        for (_, names), own in zip(pieces, levels, strict=True)
    ]
