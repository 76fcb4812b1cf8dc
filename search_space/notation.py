"""The short notation for people: `lora(r=8)@attention.query,attention.value[top:3] + bitfit | lr=0.001/0.005`.

    candidate  = part { "+" part } [ "|" setting { " " setting } ]
    part       = method [ "(" knob "=" value { "," knob "=" value } ")" ] [ "@" placement ]
    value      = true | false | number | word | number { "/" number }         (one number per layer)
    setting    = "lr=" number { "/" number } | ( "head_lr" | "weight_decay" | "label_smoothing" | "dropout" | "mixup"
                 | "training_share" ) "=" number

A method may be called by one of its forms, such as `houlsby`. A knob that is left out takes the method's default, and
so does the placement. Parsing is strict: anything else raises NotationError with the place. `parse(write(candidate)) ==
candidate` for every candidate.
"""

from __future__ import annotations

import re

from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.errors import CandidateError, NotationError, did_you_mean, one_of
from search_space.forms import FORMS
from search_space.placement import Placement
from search_space.registry import Method, method

_PLUS = re.compile(r"\+(?![^()]*\))")
_PART = re.compile(r"(?P<method>[a-z][a-z0-9_]*)(?:\((?P<knobs>[^()]*)\))?(?:@(?P<placement>\S+))?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_MOST_CHARACTERS = 4096
_SETTINGS = {
    "head_lr": "head_learning_rate",
    "weight_decay": "weight_decay",
    "label_smoothing": "label_smoothing",
    "dropout": "dropout",
    "mixup": "mixup",
    "training_share": "training_share",
}


def write(candidate: Candidate) -> str:
    """Return the notation of a candidate, recipe included."""
    return f"{write_parts(candidate)} | {_write_recipe(candidate.recipe)}"


def write_parts(candidate: Candidate) -> str:
    """Return the notation of the parts alone, as tables print it."""
    return " + ".join(map(write_part, candidate.parts))


def write_part(part: Part) -> str:
    """Return the notation of one part; knobs and placement at their defaults are left out."""
    rule = method(part.method)
    knobs = [(name, value) for name, value in part.knobs if value != rule.knob(name).default]
    text = part.method
    if knobs:
        text += "(" + ",".join(f"{name}={_write_value(value)}" for name, value in knobs) + ")"
    return text if part.placement == rule.placement.default else f"{text}@{part.placement}"


def parse(text: str) -> Candidate:
    """Read a candidate. Without `| lr=` each part takes its method's default learning rate.

    Raises:
        NotationError: The text does not parse, or says what no candidate can be.
    """
    if len(text) > _MOST_CHARACTERS:
        raise NotationError(f"notation longer than {_MOST_CHARACTERS} characters")
    body, bar, settings = text.partition("|")
    parts = tuple(map(parse_part, _PLUS.split(body)))
    rates = tuple(method(part.method).learning_rate.default for part in parts)
    try:
        return Candidate(parts, _parse_recipe(settings, rates) if bar else Recipe(rates))
    except CandidateError as error:
        raise NotationError(str(error)) from None


def parse_part(text: str) -> Part:
    """Read one part, defaults filled in. Raises NotationError."""
    found = _PART.fullmatch(text.strip())
    if found is None:
        raise NotationError(f"{text.strip()!r} is not a part; write it as 'lora(r=8)@attention.query[top:3]'")
    form = _PART.fullmatch(FORMS.get(found["method"], found["method"]))
    assert form is not None
    try:
        rule = method(form["method"])
    except KeyError as error:
        raise NotationError(str(error.args[0])) from None
    fixed, given = _parse_knobs(rule, form["knobs"] or ""), _parse_knobs(rule, found["knobs"] or "")
    if twice := sorted(fixed.keys() & given.keys()):
        raise NotationError(
            f"{found['method']} is {FORMS[found['method']]}: {one_of(twice)} cannot be set; use {rule.name}"
        )
    knobs = {knob.name: (fixed | given).get(knob.name, knob.default) for knob in rule.knobs}
    try:
        placement = _parse_placement(found["placement"] or "", form["placement"] or "", rule)
        part = Part(rule.name, tuple(knobs.items()), placement)
        rule.check(part)
    except CandidateError as error:
        raise NotationError(f"{text.strip()!r}: {error}") from None
    return part


def _parse_placement(text: str, form: str, rule: Method) -> Placement:
    """Read a placement; a form's projections take the layers that are given, and no other projections."""
    given, own = Placement.parse(text), Placement.parse(form)
    if not own.projections:
        return given if text else rule.placement.default
    if given.projections:
        raise NotationError(
            f"it has its own projections, {form}; choose its layers, as in @[top:2], or use {rule.name}"
        )
    return Placement(own.projections, given.layers)


def _parse_knobs(rule: Method, text: str) -> dict[str, KnobValue]:
    knobs: dict[str, KnobValue] = {}
    names = [knob.name for knob in rule.knobs]
    for pair in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = (word.strip() for word in pair.partition("="))
        if not equals or name in knobs:
            raise NotationError(f"{rule.name}({text}): {pair!r} is not 'knob=value', or it is given twice")
        if name not in names:
            raise NotationError(
                f"{rule.name} has no knob {name!r}; allowed: {one_of(names)}{did_you_mean(name, names)}"
            )
        knobs[name] = _parse_value(value)
    return knobs


def _parse_value(text: str) -> KnobValue:
    if "/" in text:
        return tuple(_integer(item) for item in text.split("/"))
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    if _WORD.fullmatch(text):
        return text
    raise NotationError(f"{text!r} is not true, false, a number, a lower-case word or numbers joined by '/'")


def _write_value(value: KnobValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return repr(value) if isinstance(value, float) else str(value)


def _write_recipe(recipe: Recipe) -> str:
    plain = Recipe(recipe.learning_rates)
    words = ["lr=" + "/".join(map(repr, recipe.learning_rates))]
    for word, name in _SETTINGS.items():
        if getattr(recipe, name) != getattr(plain, name):
            words.append(f"{word}={getattr(recipe, name)!r}")
    return " ".join(words)


def _parse_recipe(text: str, rates: tuple[float, ...]) -> Recipe:
    values: dict[str, float] = {}
    allowed = ("lr", *_SETTINGS)
    seen: set[str] = set()
    for word in text.split():
        name, equals, value = word.partition("=")
        if name not in allowed or not equals:
            raise NotationError(f"{word!r} is not a setting; allowed: {one_of(allowed)}{did_you_mean(name, allowed)}")
        if name in seen:
            raise NotationError(f"{name!r} is given twice")
        seen.add(name)
        if name == "lr":
            rates = tuple(_number(item) for item in value.split("/"))
        else:
            values[_SETTINGS[name]] = _number(value)
    return Recipe(rates, **values)


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise NotationError(f"{text!r} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise NotationError(f"{text!r} is not a number")
    return float(text)
