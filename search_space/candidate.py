"""A candidate: one or more parts (method, knobs, placement) and a recipe. Pure, frozen, ordered data.

A candidate crosses process borders as canonical JSON and is identified by the SHA-256 of that JSON. A field or a knob
that has its default value is left out of the JSON and filled in when it is read, so adding one later changes no
identity; changing a default would, and is another schema version.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from search_space.errors import CandidateError, did_you_mean, one_of
from search_space.placement import Placement

KnobValue = bool | int | float | str | tuple[int, ...]
SCHEMA_VERSION = 1


@dataclass(frozen=True, order=True)
class Part:
    """One method with its knobs, put somewhere.

    Attributes:
        method: Name of a method in the registry.
        knobs: (name, value) pairs, sorted by name. A tuple value gives a size for each layer of the placement; where
            all are equal it is kept as one number, so that equal architectures are one.
        placement: Where. An empty set of projections means the method's own fixed place.
    """

    method: str
    knobs: tuple[tuple[str, KnobValue], ...] = ()
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        given = dict(self.knobs)
        if len(given) != len(self.knobs):
            raise CandidateError(f"{self.method}: a knob is given twice in {[name for name, _ in self.knobs]}")
        object.__setattr__(self, "knobs", tuple((name, in_one(given[name])) for name in sorted(given)))
        for name, value in self.knobs:
            if isinstance(value, float) and not math.isfinite(value):
                raise CandidateError(f"{self.method}.{name}: {value} is not a finite number")

    def __hash__(self) -> int:
        """Hash once: parts are keys of what was counted of them."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.method, self.knobs, self.placement))

    def __getitem__(self, knob: str) -> KnobValue:
        """Return the value of a knob; KeyError when this part does not have it."""
        return dict(self.knobs)[knob]

    def to_json(self) -> dict[str, Any]:
        """Return this part as JSON data, knobs at their method's defaults left out."""
        defaults = _default_knobs(self.method)
        set_apart = [(name, value) for name, value in self.knobs if not _same(value, defaults.get(name))]
        knobs = {name: list(value) if isinstance(value, tuple) else value for name, value in set_apart}
        return {"method": self.method, "knobs": knobs, "placement": self.placement.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Part:
        """Read a part; a knob that is left out is at its default. Raises CandidateError on an odd key."""
        _check_keys("part", data, required=("method",), optional=("knobs", "placement"))
        if not isinstance(given := data.get("knobs", {}), Mapping):
            raise CandidateError(f"part: knobs: expected an object, got {type(given).__name__}")
        knobs = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        placement = Placement.from_json(data["placement"]) if "placement" in data else Placement()
        return cls(data["method"], tuple((_default_knobs(data["method"]) | knobs).items()), placement)


@dataclass(frozen=True, order=True)
class Recipe:
    """How a candidate is trained, beyond what the study fixes for all.

    Attributes:
        learning_rates: One per part, in the order of the parts; one even where there is no part to train.
        head_learning_rate: Learning rate of the task's head.
        weight_decay: AdamW's decoupled weight decay, on matrices only.
        label_smoothing: Mass spread over the other classes, in [0, 1).
        dropout: Probability of the backbone's own dropout layers while training.
        mixup: Parameter of the Beta distribution from which examples are mixed in pairs; 0 for none.
        training_share: Part of the study's training steps that it is trained for, in (0, 1].
    """

    learning_rates: tuple[float, ...]
    head_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    dropout: float = 0.0
    mixup: float = 0.0
    training_share: float = 1.0

    def __post_init__(self) -> None:
        rates = (*self.learning_rates, self.head_learning_rate)
        if not all(_is_number(rate) and rate > 0 for rate in rates):
            raise CandidateError(f"recipe: learning rates must be positive finite numbers, not {rates}")
        for name in ("label_smoothing", "dropout"):
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise CandidateError(f"recipe: {name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("weight_decay", "mixup"):
            if not (_is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise CandidateError(f"recipe: {name} must be at least 0, not {getattr(self, name)}")
        if not (_is_number(self.training_share) and 0 < self.training_share <= 1):
            raise CandidateError(f"recipe: training_share must be in (0, 1], not {self.training_share}")
        # 1 and 1.0 are one recipe, so they have one JSON text
        object.__setattr__(self, "learning_rates", tuple(map(float, self.learning_rates)))
        for name in _NUMBERS:
            if type(value := getattr(self, name)) is not float:
                object.__setattr__(self, name, float(value))

    def to_json(self) -> dict[str, Any]:
        """Return this recipe as JSON data, defaults left out."""
        data: dict[str, Any] = {"learning_rates": list(self.learning_rates)}
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            if value != one.default:
                data[one.name] = value
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Read a recipe. Raises CandidateError on an unknown or missing key."""
        optional = tuple(one.name for one in fields(cls)[1:])
        _check_keys("recipe", data, required=("learning_rates",), optional=optional)
        return cls(**{**data, "learning_rates": tuple(_list("recipe: learning_rates", data["learning_rates"]))})


_NUMBERS = tuple(one.name for one in fields(Recipe)[1:])


@dataclass(frozen=True, order=True)
class Candidate:
    """One point of the search space: an ordered hybrid of parts, and its recipe.

    Parts are attached in their order. No part at all is not allowed: the head alone is the method `head`.
    """

    parts: tuple[Part, ...]
    recipe: Recipe

    def __post_init__(self) -> None:
        if not self.parts:
            raise CandidateError("a candidate needs at least one part; the head alone is the method 'head'")
        if len(self.recipe.learning_rates) != len(self.parts):
            raise CandidateError(
                f"{len(self.parts)} parts need {len(self.parts)} learning rates, not {len(self.recipe.learning_rates)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return this candidate as JSON data."""
        parts = [part.to_json() for part in self.parts]
        return {"schema_version": SCHEMA_VERSION, "parts": parts, "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Read a candidate. Raises CandidateError on an unknown key or another schema version."""
        _check_keys("candidate", data, required=("schema_version", "parts", "recipe"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise CandidateError(
                f"candidate: schema_version {data['schema_version']!r} is not {SCHEMA_VERSION}; "
                "it was written by another version of Paretune"
            )
        return cls(
            tuple(map(Part.from_json, _list("candidate: parts", data["parts"]))), Recipe.from_json(data["recipe"])
        )

    @cached_property
    def canonical_json(self) -> str:
        """The one JSON text of this candidate: sorted keys, no spaces, shortest exact floats."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the canonical JSON: the candidate's identity."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()

    @cached_property
    def architecture_sha256(self) -> str:
        """Identity of the parts alone: candidates that differ only in their recipe share it, and their cost."""
        text = json.dumps([part.to_json() for part in self.parts], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def method(self) -> str:
        """The methods of the parts, joined by ` + `."""
        return " + ".join(part.method for part in self.parts)


def _default_knobs(method: object) -> dict[str, KnobValue]:
    """Return a method's knobs at their defaults; none where no method has this name, which a later check tells."""
    from search_space.registry import methods  # the registry's methods are made of parts

    rule = methods().get(method) if isinstance(method, str) else None
    return {} if rule is None else {knob.name: knob.default for knob in rule.knobs}


def _same(value: KnobValue, default: KnobValue | None) -> bool:
    return type(value) is type(default) and value == default


def in_one(value: KnobValue) -> KnobValue:
    """Return one number for sizes that are equal on all layers, and anything else as it is."""
    return value[0] if isinstance(value, tuple) and value and len(set(value)) == 1 else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(what: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise CandidateError(f"{what}: expected a list, got {type(value).__name__}")
    return value


def _check_keys(what: str, data: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if not isinstance(data, Mapping):
        raise CandidateError(f"{what}: expected an object, got {type(data).__name__}")
    allowed = (*required, *optional)
    for key in data:
        if key not in allowed:
            raise CandidateError(f"{what}: unknown key {key!r}; allowed: {one_of(allowed)}{did_you_mean(key, allowed)}")
    for key in required:
        if key not in data:
            raise CandidateError(f"{what}: {key!r} is missing")
