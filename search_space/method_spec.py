"""How one method is searched, as a study file says it, and one part of a hybrid of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from search_space.candidate import KnobValue, in_one
from search_space.errors import CandidateError, PlacementError, did_you_mean, one_of
from search_space.knobs import Knob, LogRange
from search_space.layer_choice import NONE, SUBSET, groups_of, is_subset
from search_space.placement import Layers, Placement
from search_space.registry import Method, method
from search_space.spread import Spread
from search_space.strict import Strict

MOST_OPTIONS = 200
_OWN_KEYS = ("learning_rate", "projections", "layers")


class MethodSpec(Strict):
    """How one method is searched: knobs by name, and where it goes.

    Attributes:
        knobs: Values to choose from for each knob that differs from the method's own list; a spread where a size
            differs between layers.
        learning_rate: (low, high), searched on a logarithmic scale.
        projections: Sets of projections to choose from, in notation.
        layers: Layer selectors to choose from; all of `top:1` .. `all` when None.
    """

    knobs: dict[str, tuple[KnobValue, ...] | Spread] = Field(default_factory=dict)
    learning_rate: tuple[float, float] | None = None
    projections: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None


class PartSpec(MethodSpec):
    """One part of a hybrid, with settings of its own. A size of 0, or the layers `none`, leave the part out.

    Attributes:
        method: Its method.
    """

    method: str


def read_method(name: str, given: Any) -> MethodSpec:
    """Read the settings of a method that is searched alone and in hybrids. Raises ValueError."""
    return given if isinstance(given, MethodSpec) else MethodSpec(**_read_settings(name, given, optional=False))


def read_part(given: Any) -> PartSpec:
    """Read a part of a hybrid of its own. Raises ValueError."""
    if isinstance(given, PartSpec):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("method"), str):
        raise ValueError(f"{given!r} is not a part; write it as '{{method: lora, r: [0, 4, 8]}}'")
    name = given["method"]
    settings = {key: value for key, value in given.items() if key != "method"}
    return PartSpec(method=name, **_read_settings(name, settings, optional=True))


def write_method(one: MethodSpec) -> dict[str, Any]:
    """Return the settings as they would be written in a study file."""
    data: dict[str, Any] = {"method": one.method} if isinstance(one, PartSpec) else {}
    for name, values in one.knobs.items():
        data[name] = values.to_json() if isinstance(values, Spread) else list(values)
    for key in _OWN_KEYS:
        if (value := getattr(one, key)) is not None:
            data[key] = list(value)
    return data


def as_layers(where: str, given: Any, optional: bool) -> tuple[str, ...]:
    """Return the layers to choose from in their canonical form.

    Args:
        where: What the message starts with.
        given: One text or several.
        optional: Whether `none` may be among them.

    Raises:
        ValueError: They are not layers, or a subset stands beside something else.
    """
    texts = _canonical(where, as_tuple(where, given), lambda text: _layers(text, optional))
    present = [text for text in texts if text != NONE]
    if not present:
        raise ValueError(f"{where}: {NONE!r} alone leaves nothing to put anywhere")
    if len(present) > 1 and any(map(is_subset, present)):
        raise ValueError(f"{where}: a subset stands alone{f', or beside {NONE!r}' if optional else ''}")
    return texts


def as_tuple(where: str, value: Any) -> tuple[Any, ...]:
    """Return one value or several as a tuple. Raises ValueError where there are too many, or one stands twice."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not 0 < len(values) <= MOST_OPTIONS:
        raise ValueError(f"{where}: expected 1 to {MOST_OPTIONS} values, not {len(values)}")
    values = tuple(in_one(tuple(one)) if isinstance(one, list) else one for one in values)
    if not where.endswith(".learning_rate") and len(set(map(repr, values))) != len(values):
        raise ValueError(f"{where}: a value is listed twice")
    return values


def absence_of(rule: Method, knobs: Mapping[str, tuple[KnobValue, ...] | Spread]) -> str:
    """Return the name of the size for which 0 is listed, which leaves a part out; empty where there is none.

    Raises:
        ValueError: There are several.
    """
    names = [name for name, values in knobs.items() if _leaves_out(rule.knob(name), values)]
    if len(names) > 1:
        raise ValueError(f"{rule.name}: {one_of(names)} are 0 to leave the part out; one of them is enough")
    return names[0] if names else ""


def _leaves_out(knob: Knob, values: tuple[KnobValue, ...] | Spread) -> bool:
    if isinstance(values, Spread):
        return False
    return knob.low is not None and knob.low > 0 and any(type(value) is int and value == 0 for value in values)


def _read_settings(name: str, given: Any, optional: bool) -> dict[str, Any]:
    try:
        rule = method(name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    given = given or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}: expected knobs as a mapping, not {given!r}")
    for key in given:
        if key not in (allowed := (*(knob.name for knob in rule.knobs), *_OWN_KEYS)):
            raise ValueError(f"{name} has no {key!r}; allowed: {one_of(allowed)}{did_you_mean(str(key), allowed)}")
    try:
        return _checked(rule, {key: _values(f"{name}.{key}", value) for key, value in given.items()}, optional)
    except (CandidateError, PlacementError) as error:
        raise ValueError(str(error)) from None


def _values(where: str, given: Any) -> tuple[Any, ...] | Spread:
    return Spread.read(where, given) if isinstance(given, Mapping) else as_tuple(where, given)


def _checked(rule: Method, given: dict[str, Any], optional: bool) -> dict[str, Any]:
    knobs = {knob.name: given[knob.name] for knob in rule.knobs if knob.name in given}
    absence = absence_of(rule, knobs) if optional else ""
    if absence and len(knobs[absence]) == 1:
        raise ValueError(f"{rule.name}.{absence}: 0 alone leaves nothing to put anywhere; list a size beside it")
    for name, values in knobs.items():
        _check_values(rule.knob(name), values, may_be_zero=name == absence)
    for key in set(given) & set(_OWN_KEYS):
        if isinstance(given[key], Spread):
            raise ValueError(f"{rule.name}.{key} takes no sizes")
    if "projections" in given and rule.placement.fixed:
        raise ValueError(f"{rule.name} has its own place and takes no projections")
    if "layers" in given and not rule.placement.layers and not set(given["layers"]) <= {NONE, "all"}:
        raise ValueError(f"{rule.name} goes into all layers and takes no choice of them")
    where = f"{rule.name}.projections"
    return {
        "knobs": knobs,
        "learning_rate": _range(rule.name, given.get("learning_rate")),
        "projections": _canonical(where, given["projections"], _projections) if "projections" in given else None,
        "layers": as_layers(f"{rule.name}.layers", given["layers"], optional) if "layers" in given else None,
    }


def _check_values(knob: Knob, values: tuple[KnobValue, ...] | Spread, may_be_zero: bool) -> None:
    if isinstance(values, Spread):
        knob.require_per_layer("space")
        knob.narrowed(values.values)
        return
    knob.narrowed([value for value in values if not may_be_zero or value != 0])


def _layers(text: str, optional: bool) -> str:
    if is_subset(text):
        groups = groups_of(text)
        return SUBSET if groups is None else f"{SUBSET}:{groups}"
    if optional and text == NONE:
        return NONE
    return str(Layers.parse(text))


def _projections(text: str) -> str:
    placement = Placement.parse(text)
    if placement.layers != Layers():
        raise ValueError(f"{text!r} names layers; they stand under `layers`")
    if not placement.projections:
        raise ValueError("an empty text names no projection")
    return str(placement)


def _canonical(where: str, texts: tuple[Any, ...], read: Callable[[str], str]) -> tuple[str, ...]:
    """Return each text in its canonical form, none twice."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {text!r} is not text")
    try:
        return as_tuple(where, [read(text) for text in texts])
    except (ValueError, CandidateError) as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _range(name: str, values: tuple[Any, ...] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    if len(values) not in (1, 2) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{name}.learning_rate: expected [low, high] or one number, not {list(values)}")
    bounds = LogRange(float(values[0]), float(values[-1]), float(values[0]))
    return bounds.low, bounds.high
