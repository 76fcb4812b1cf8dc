"""A part brought down to what its numbers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_space.candidate import KnobValue, Part
from search_space.placement import Anatomy, Site
from search_space.registry import Method, method
from search_space.space import resolve

Kind = tuple[int, str]
"""What a module's numbers depend on: a number for its type and shapes, and what a part's arguments say of it."""


@dataclass(frozen=True)
class Plan:
    """A part brought down to what its numbers depend on: scalar arguments, and what is said of each module."""

    part: Part
    rule: Method
    arguments: Mapping[str, Any]
    sites: tuple[Site, ...]

    @classmethod
    def of(cls, part: Part, anatomy: Anatomy) -> Plan:
        """Look at a part on a model. Raises UnsupportedError or PlacementError where it cannot carry it."""
        rule, targets = method(part.method), resolve(part, anatomy)
        return cls(part, rule, rule.config(part, targets), targets.sites if rule.route == "inject" else ())

    @property
    def law_key(self) -> tuple[str, tuple[KnobValue, ...]]:
        """What the law may depend on: the method, and the knobs that make it another method."""
        knobs = dict(self.part.knobs)
        return self.rule.name, tuple(knobs[knob.name] for knob in self.rule.knobs if knob.low is None)

    @property
    def scalars(self) -> str:
        """The arguments that name no module, as text."""
        return repr(sorted((name, value) for name, value in self.arguments.items() if not names_modules(value)))

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments that are whole numbers above 0."""
        return {name: value for name, value in self.arguments.items() if type(value) is int and value > 0}

    @property
    def flags(self) -> str:
        """The other arguments that name no module, as text, and the names of the sizes."""
        sizes = self.sizes
        others = (
            (name, value) for name, value in self.arguments.items() if name not in sizes and not names_modules(value)
        )
        return repr((sorted(others), sorted(sizes)))

    @property
    def names(self) -> list[str]:
        """The modules that it is on, sites or whole layers, by their full names."""
        said = dict.fromkeys(name for value in self.arguments.values() if names_modules(value) for name in value)
        return [site.name for site in self.sites] or list(said)

    def kinds(self, of_modules: Mapping[str, int]) -> dict[str, Kind]:
        """Return the kind of each of its modules, from the numbers of all modules' types and shapes."""
        places = sorted((key, value) for key, value in self.arguments.items() if names_modules(value))
        if len(places) == 1 and isinstance(places[0][1], list) and len(places[0][1]) == len(self.sites):
            said = repr([(places[0][0], True)])
            return {site.name: (of_modules[site.name], said) for site in self.sites}
        return {site.name: (of_modules[site.name], _said_of(site.name, places)) for site in self.sites}

    def renamed(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments with other names of modules; what is said of others is left out."""
        return {key: _renamed(value, names) if names_modules(value) else value for key, value in self.arguments.items()}


def names_modules(value: object) -> bool:
    """Whether an argument says something of single modules, by their names."""
    return isinstance(value, list | dict)


def _said_of(name: str, places: list[tuple[str, Any]]) -> str:
    """Return what the arguments say of one module, as text."""
    return repr([(key, value[name] if isinstance(value, dict) else True) for key, value in places if name in value])


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names[key]: one for key, one in value.items() if key in names}
    return [names[one] for one in value if one in names]
