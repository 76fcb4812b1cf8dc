"""The `space` section of a study: a preset, narrowed or widened."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from search_space.candidate import KnobValue
from search_space.errors import CandidateError, PlacementError, did_you_mean, one_of
from search_space.hybrids import NAMED, spelled_out
from search_space.knobs import LogRange
from search_space.placement import Layers, Placement
from search_space.recipes import RecipeSpec
from search_space.registry import Method, method
from search_space.strict import Strict

_MOST_OPTIONS = 200
_OWN_KEYS = ("learning_rate", "projections", "layers")


class MethodSpec(Strict):
    """How one method is searched: knobs by name, and where it goes.

    Attributes:
        knobs: Values to choose from for each knob that differs from the method's own list.
        learning_rate: (low, high), searched on a logarithmic scale.
        projections: Sets of projections to choose from, in notation.
        layers: Layer selectors to choose from; all of `top:1` .. `all` when None.
    """

    knobs: dict[str, tuple[KnobValue, ...]] = Field(default_factory=dict)
    learning_rate: tuple[float, float] | None = None
    projections: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None


class SpaceSpec(Strict):
    """The space of a study.

    In a study file each method's knobs stand beside `learning_rate`, `projections` and `layers`:
    `methods: {lora: {r: [4, 8], learning_rate: [1e-3, 5e-3], layers: [all, "top:3"]}}`.

    Attributes:
        preset: Where it starts from.
        methods: The methods that are searched; all of the preset's when None.
        hybrids: Hybrids that are searched beside them (`lora + bitfit`); the preset's, as far as their methods are
            searched, when None.
        recipe: Settings of the recipe that are searched; all at their defaults when None.
    """

    preset: str = "default"
    methods: dict[str, MethodSpec] | None = None
    hybrids: Annotated[tuple[str, ...], Field(max_length=_MOST_OPTIONS)] | None = None
    recipe: RecipeSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"preset": data} if isinstance(data, str) else data

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in presets():
            raise ValueError(
                f"there is no preset {name!r}; allowed: {one_of(presets())}{did_you_mean(name, presets())}"
            )
        return name

    @field_validator("methods", mode="before")
    @classmethod
    def _read_methods(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            if not all(isinstance(name, str) for name in data):
                raise ValueError("expected names of methods, or a mapping from names to knobs")
            if len(set(data)) != len(data):
                raise ValueError("a method is listed twice")
            data = {name: {} for name in data}
        if not isinstance(data, Mapping):
            return data
        return dict(_read_all(data.items(), lambda name, given: (name, _read_method(str(name), given))))

    @field_validator("hybrids", mode="before")
    @classmethod
    def _read_hybrids(cls, data: Any) -> Any:
        if not isinstance(data, list | tuple):
            return data
        hybrids = _read_all(enumerate(data), lambda _, hybrid: " + ".join(_members(hybrid)))
        if len(set(hybrids)) != len(hybrids):
            raise ValueError("a hybrid is listed twice")
        return tuple(hybrids)

    def to_json(self) -> dict[str, Any]:
        """Return this spec as it would be written in a study file."""
        data: dict[str, Any] = {"preset": self.preset}
        if self.methods is not None:
            data["methods"] = {name: _write_method(one) for name, one in self.methods.items()}
        if self.hybrids is not None:
            data["hybrids"] = list(self.hybrids)
        if self.recipe is not None:
            data["recipe"] = self.recipe.to_json()
        return data


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the presets by name."""
    package = importlib.import_module("search_space.presets")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return {name: importlib.import_module(f"search_space.presets.{name}").PRESET for name in names}


def _read_all(items: Iterable[tuple[Any, Any]], read: Callable[[Any, Any], Any]) -> list[Any]:
    """Read every item, and report the problems of all of them at once, each at its own path."""
    results, problems = [], []
    for key, value in items:
        try:
            results.append(read(key, value))
        except ValueError as error:
            problems.append((str(key), str(error)))
    if problems:
        raise PydanticCustomError("problems", "several problems", {"problems": problems})
    return results


def _read_method(name: str, given: Any) -> MethodSpec | Any:
    try:
        rule = method(name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    if isinstance(given, MethodSpec):
        return given
    given = given or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}: expected knobs as a mapping, not {given!r}")
    for key in given:
        if key not in (allowed := (*(knob.name for knob in rule.knobs), *_OWN_KEYS)):
            raise ValueError(f"{name} has no {key!r}; allowed: {one_of(allowed)}{did_you_mean(str(key), allowed)}")
    try:
        return _checked_method(rule, {key: _as_tuple(f"{name}.{key}", value) for key, value in given.items()})
    except (CandidateError, PlacementError) as error:
        raise ValueError(str(error)) from None


def _checked_method(rule: Method, given: dict[str, tuple[Any, ...]]) -> MethodSpec:
    knobs = {knob.name: given[knob.name] for knob in rule.knobs if knob.name in given}
    for name, values in knobs.items():
        rule.knob(name).narrowed(values)
    if "projections" in given and rule.placement.fixed:
        raise ValueError(f"{rule.name} has its own place and takes no projections")
    if "layers" in given and not rule.placement.layers:
        raise ValueError(f"{rule.name} goes into all layers and takes no choice of them")
    return MethodSpec(
        knobs=knobs,
        learning_rate=_range(rule.name, given.get("learning_rate")),
        projections=_shortest(f"{rule.name}.projections", given.get("projections"), _projections),
        layers=_shortest(f"{rule.name}.layers", given.get("layers"), lambda text: str(Layers.parse(text))),
    )


def _projections(text: str) -> str:
    placement = Placement.parse(text)
    if placement.layers != Layers():
        raise ValueError(f"{text!r} names layers; they stand under `layers`")
    if not placement.projections:
        raise ValueError("an empty text names no projection")
    return str(placement)


def _shortest(where: str, texts: tuple[Any, ...] | None, read: Callable[[str], str]) -> tuple[str, ...] | None:
    """Return each text in its canonical form, none twice."""
    if texts is None:
        return None
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {text!r} is not text")
    try:
        return _as_tuple(where, [read(text) for text in texts])
    except (ValueError, CandidateError) as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _range(name: str, values: tuple[Any, ...] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    if len(values) not in (1, 2) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{name}.learning_rate: expected [low, high] or one number, not {list(values)}")
    bounds = LogRange(float(values[0]), float(values[-1]), float(values[0]))
    return bounds.low, bounds.high


def _as_tuple(where: str, value: Any) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not 0 < len(values) <= _MOST_OPTIONS:
        raise ValueError(f"{where}: expected 1 to {_MOST_OPTIONS} values, not {len(values)}")
    values = tuple(tuple(one) if isinstance(one, list) else one for one in values)
    if not where.endswith(".learning_rate") and len(set(map(repr, values))) != len(values):
        raise ValueError(f"{where}: a value is listed twice")
    return values


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
        if method(name).route in ("head", "full"):
            raise ValueError(f"{name!r} cannot be part of a hybrid")
    return names


def _write_method(one: MethodSpec) -> dict[str, Any]:
    data: dict[str, Any] = {name: list(values) for name, values in one.knobs.items()}
    for key in _OWN_KEYS:
        if (value := getattr(one, key)) is not None:
            data[key] = list(value)
    return data
