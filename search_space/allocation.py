"""LoRA whose places and ranks follow from what each position of a model is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

from search_space.candidate import Candidate, Part
from search_space.errors import PlacementError, UnsupportedError
from search_space.placement import Anatomy
from search_space.space import Space
from search_space.tally import Tally

Worth = Callable[[str, int], float]
"""What a rank is worth to a position, by the name of its module: never less for more."""

_METHOD = "lora"
_DRAWS, _CHANGES = 48, 240
_CHANGED = 0.15
"""Share of what a candidate is drawn by that is drawn anew."""


def by_rank(values: Mapping[str, Sequence[float]]) -> Worth:
    """Return the worth of positions of which it is known what each further rank brings."""
    sums = {name: [sum(one[:rank]) for rank in range(len(one) + 1)] for name, one in values.items()}
    return lambda name, rank: sums[name][min(rank, len(sums[name]) - 1)] if name in sums else 0.0


def by_position(values: Mapping[str, Sequence[float]], rank: int = 8) -> Worth:
    """Return the worth of positions as wholes: every rank up to one brings the same, none beyond it does."""
    return lambda name, given: sum(values.get(name, ())) * min(given, rank) / rank


def allocate(space: Space, tally: Tally, worth: Worth, most: float, seed: int) -> Candidate | None:
    """Return the LoRA of a space that is worth most within a number of parameters; None where it has none so small.

    Draws some, and changes the best again and again where that makes it better: spaces differ too much in how they say
    places and sizes for one rule to fit them all. What makes no difference is at its default, learning rates are in the
    middle of their ranges.

    Args:
        space: What may be proposed.
        tally: Counts trainable parameters.
        worth: What is made large, summed over the positions.
        most: Trainable parameters.
        seed: Of the draws.
    """
    alone = tuple(one for one in space.compositions if set(one.methods) == {_METHOD})
    if not alone:
        return None
    own, random = replace(space, compositions=alone), Random(seed)  # noqa: S311  (a search, not a secret)

    def value_of(candidate: Candidate) -> float:
        return _worth_of(candidate, own.anatomy, tally, worth, most)

    best = max((own.draw(_Changed({}, random)) for _ in range(_DRAWS)), key=value_of)
    for _ in range(_CHANGES):
        best = max(best, own.draw(_Changed(own.encode(best), random)), key=value_of)
    for name, usual in own.encode(own.usual()).items():
        changed = own.draw(_Changed(own.encode(best) | {name: usual}, random, share=0.0))
        best = max(changed, best, key=value_of)  # of two that are worth the same the first
    return best if value_of(best) > -math.inf else None


def _worth_of(candidate: Candidate, anatomy: Anatomy, tally: Tally, worth: Worth, most: float) -> float:
    """Return what a candidate is worth; minus infinity where it is too large or the model cannot carry it."""
    try:
        if tally(candidate) > most:
            return -math.inf
        return sum(
            worth(site.name, rank)
            for part in candidate.parts
            for site in anatomy.resolve(part.placement)
            for rank in (_rank(part, anatomy, site.layer),)
        )
    except (PlacementError, UnsupportedError):
        return -math.inf


def _rank(part: Part, anatomy: Anatomy, layer: int | None) -> int:
    """Return the rank of a part in a layer."""
    size = part["r"]
    if isinstance(size, tuple):
        layers = part.placement.layers.indices(anatomy.n_layers)
        return size[layers.index(layer)] if layer in layers else 0
    return int(size)


class _Changed:
    """Draws what is known again, and now and then something else."""

    def __init__(self, known: Mapping[str, str | int | float], random: Random, share: float = _CHANGED) -> None:
        self._known, self._random, self._share = known, random, share

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return the known option, or another one."""
        return str(self._known[name]) if self._stays(name) else self._random.choice(options)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return the known number, or another one."""
        return int(self._known[name]) if self._stays(name) else self._random.randint(low, high)

    def real(self, name: str, low: float, high: float) -> float:
        """Return the middle of the range, by logarithm."""
        return math.sqrt(low * high)

    def _stays(self, name: str) -> bool:
        return name in self._known and self._random.random() >= self._share
