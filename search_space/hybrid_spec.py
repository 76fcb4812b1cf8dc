"""How a hybrid is searched, as a study file says it: by the methods of its parts, or with parts of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from search_space.errors import did_you_mean, one_of
from search_space.hybrids import NAMED, spelled_out
from search_space.method_spec import MOST_OPTIONS, PartSpec, as_layers, read_part, write_method
from search_space.registry import method, methods
from search_space.strict import Strict

_KEYS = ("name", "parts", "layers")
_TAKEN = ("composition", "recipe")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class HybridSpec(Strict):
    """A hybrid with parts of its own, some of which may be left out.

    Attributes:
        name: What it is called; the names of its parameters start with it.
        parts: In the order in which they are attached.
        layers: Layers to choose from for all parts at once; each part has its own when None.
    """

    name: str = "hybrid"
    parts: tuple[PartSpec, ...]
    layers: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.name

    def to_json(self) -> dict[str, Any]:
        """Return this hybrid as it would be written in a study file."""
        data: dict[str, Any] = {"name": self.name, "parts": [write_method(part) for part in self.parts]}
        return data if self.layers is None else {**data, "layers": list(self.layers)}


def read_hybrid(given: Any) -> str | HybridSpec:
    """Read a hybrid: a text such as `lora + bitfit`, its methods as a list, or a mapping. Raises ValueError."""
    if isinstance(given, HybridSpec):
        return given
    return _read_mapping(given) if isinstance(given, Mapping) else " + ".join(_members(given))


def _read_mapping(given: Mapping[str, Any]) -> HybridSpec:
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"a hybrid has no {key!r}; allowed: {one_of(_KEYS)}{did_you_mean(str(key), _KEYS)}")
    name = given.get("name", "hybrid")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name: {name!r} is not a name of lower-case letters, digits and '_'")
    if name in methods() or name in _TAKEN:
        raise ValueError(f"name: {name!r} is taken; the names of a hybrid's parameters start with its name")
    parts = given.get("parts")
    if not isinstance(parts, list | tuple) or not 0 < len(parts) <= MOST_OPTIONS:
        raise ValueError(f"{name}: 'parts' lists its parts, such as '{{method: lora, r: [0, 4, 8]}}'")
    read = tuple(map(read_part, parts))
    layers = as_layers(f"{name}.layers", given["layers"], optional=False) if given.get("layers") is not None else None
    for part in read:
        _refuse_alone(part.method)
        if layers is not None and (part.layers is not None or not method(part.method).placement.layers):
            raise ValueError(f"{name}: its parts share their layers, and {part.method} cannot have its own")
    return HybridSpec(name=name, parts=read, layers=layers)


def _members(hybrid: Any) -> tuple[str, ...]:
    names = spelled_out(hybrid).split("+") if isinstance(hybrid, str) else hybrid
    if not isinstance(names, list | tuple) or len(names) < 2:
        raise ValueError(f"{hybrid!r} is not a hybrid; write it as 'lora + bitfit', or as one of {one_of(NAMED)}")
    names = tuple(str(name).strip() for name in names)
    for name in names:
        try:
            method(name)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        _refuse_alone(name)
    return names


def _refuse_alone(name: str) -> None:
    if method(name).route in ("head", "full"):
        raise ValueError(f"{name!r} cannot be part of a hybrid")
