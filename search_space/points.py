"""Some candidates of a space, and the one among them that is nearest to another: a search confined to a table."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from math import log
from typing import TypeAlias

from search_space.candidate import Candidate
from search_space.space import Space

_OTHER_METHODS = 100.0
Parameters: TypeAlias = Mapping[str, str | int | float]


class Points:
    """Candidates of a space, found by their parameters.

    A search on a table can only be answered where the table has a point. What a sampler draws is exchanged for the
    nearest point that is not taken: of the same methods where one is left, at the smallest sum over the parameters of
    differences as shares of the range (1 for what has no order), learning rates on a logarithmic scale; among equals
    by lot. The sampler is told the point's own parameters, so that it learns from what was trained.
    """

    def __init__(self, space: Space, candidates: Sequence[Candidate]) -> None:
        self.space = space
        self.candidates = tuple(candidates)
        self._parameters = {one.sha256: space.encode(one) for one in candidates}
        self._spans = _spans(list(self._parameters.values()))

    def nearest(self, candidate: Candidate, taken: Collection[str]) -> Candidate | None:
        """Return the nearest point whose identity is not taken; None when all are."""
        drawn = self._parameters.get(candidate.sha256) or self.space.encode(candidate)
        free = [one for one in self.candidates if one.sha256 not in taken]
        return min(free, key=lambda one: (self._distance(candidate, drawn, one), _lot(candidate, one)), default=None)

    def _distance(self, candidate: Candidate, drawn: Parameters, other: Candidate) -> float:
        there = self._parameters[other.sha256]
        methods, others = {part.method for part in candidate.parts}, {part.method for part in other.parts}
        apart = 1 - len(methods & others) / len(methods | others)
        shared = (name for name in there if name in drawn and name != "composition")
        return _OTHER_METHODS * apart + sum(self._apart(name, drawn[name], there[name]) for name in shared)

    def _apart(self, name: str, one: str | int | float, other: str | int | float) -> float:
        if isinstance(one, str) or isinstance(other, str):
            return float(one != other)
        return abs(_scaled(one) - _scaled(other)) / self._spans[name]


def _lot(drawn: Candidate, point: Candidate) -> str:
    """Decide between points that are as near: by lot, the same each time."""
    return hashlib.sha256(f"{drawn.sha256}/{point.sha256}".encode()).hexdigest()


def _spans(parameters: Sequence[Parameters]) -> dict[str, float]:
    """Return the range of each number that occurs, at least a tiny one."""
    values: dict[str, list[float]] = {}
    for one in parameters:
        for name, value in one.items():
            if not isinstance(value, str):
                values.setdefault(name, []).append(_scaled(value))
    return {name: max(max(found) - min(found), 1e-9) for name, found in values.items()}


def _scaled(value: int | float) -> float:
    return log(value) if isinstance(value, float) else float(value)
