"""Samplers as the space sees them: one that draws and remembers, one that gives what it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random


class Recorded:
    """Independent uniform draws, remembered by name. The same name must always come with the same domain."""

    def __init__(self, random: Random) -> None:
        self.asked: dict[str, str | int | float] = {}
        self.domains: dict[str, object] = {}
        self._random = random

    def choice(self, name: str, options: Sequence[str]) -> str:
        self._note(name, tuple(options))
        return str(self._keep(name, self._random.choice(options)))

    def integer(self, name: str, low: int, high: int) -> int:
        self._note(name, (low, high))
        return int(self._keep(name, self._random.randint(low, high)))

    def real(self, name: str, low: float, high: float) -> float:
        self._note(name, (low, high))
        return float(self._keep(name, low * (high / low) ** self._random.random()))

    def _note(self, name: str, domain: object) -> None:
        assert self.domains.setdefault(name, domain) == domain, f"{name} has two domains"

    def _keep(self, name: str, value: str | float) -> str | float:
        self.asked[name] = value
        return value


class Replayed:
    """Gives the parameters that it holds, and checks that they are possible."""

    def __init__(self, parameters: Mapping[str, str | int | float]) -> None:
        self._left = dict(parameters)

    def choice(self, name: str, options: Sequence[str]) -> str:
        value = self._left.pop(name)
        assert value in options
        return str(value)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._left.pop(name)
        assert isinstance(value, int)
        assert low <= value <= high
        return value

    def real(self, name: str, low: float, high: float) -> float:
        value = float(self._left.pop(name))
        assert low <= value <= high
        return value

    @property
    def unused(self) -> list[str]:
        """Names that nobody asked for."""
        return list(self._left)
