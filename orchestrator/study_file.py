"""Reading a study file: YAML 1.2 scalars, no anchors, no duplicate keys, bounded in size and depth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from orchestrator.spec import StudySpec, parse
from search_space.errors import Problem, SpecError

MOST_BYTES = 256 * 1024
MOST_DEPTH = 20
MOST_DIGITS = 40
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """PyYAML's safe loader, with the scalars of YAML 1.2: `1e-4` is a number, `no` and dates are text."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=True)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda loader, node: float(node.value.replace(".inf", "inf").replace(".nan", "nan"))
)


def read_text(text: str, source: str = "study") -> StudySpec:
    """Read a study from YAML or JSON text.

    Raises:
        SpecError: It does not parse, or the spec is wrong.
    """
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise SpecError([Problem("", f"larger than {MOST_BYTES // 1024} KiB")], source)
    try:
        _check_events(text, source)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506  (a subclass of the safe loader)
    except yaml.YAMLError as error:
        raise SpecError([Problem("", _one_line(error))], source) from None
    except UnicodeEncodeError:
        raise SpecError([Problem("", "holds half a character (a lone surrogate)")], source) from None
    return parse(data, source)


def read_file(path: Path) -> StudySpec:
    """Read a study file. Raises SpecError."""
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Problem("", f"cannot be read: {error}")], str(path)) from None


def _check_events(text: str, source: str) -> None:
    """Refuse aliases, tags, endless numbers and deep nesting before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        if why := _refused(event):
            raise SpecError([Problem("", f"line {_line(event)}: {why}")], source)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise SpecError([Problem("", f"line {_line(event)}: nested deeper than {MOST_DEPTH}")], source)


def _refused(event: yaml.Event) -> str:
    if getattr(event, "anchor", None):
        return "anchors and aliases are not allowed"
    if tag := getattr(event, "tag", None):
        return f"tags are not allowed, and {tag} is one; write the value as it is"
    value = event.value if isinstance(event, yaml.ScalarEvent) and event.implicit[0] else ""
    if len(value) > MOST_DIGITS and re.fullmatch(r"[-+]?[0-9.]+", value):
        return f"a number of {len(value)} characters; at most {MOST_DIGITS} are allowed"
    return ""


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(error, 'problem', None) or error}"
