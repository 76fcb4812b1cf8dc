"""The API's own description, made readable: one row for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One thing that the API does.

    Attributes:
        method: HTTP method.
        path: Path, parameters in braces.
        text: What it does.
        parameters: Name, where it stands (`path`, `query`, `header`) and what it means.
        answers: Status and what it means.
    """

    method: str
    path: str
    text: str
    parameters: tuple[tuple[str, str, str], ...]
    answers: tuple[tuple[str, str], ...]


def described(schema: Mapping[str, Any]) -> list[Operation]:
    """Read the operations out of an OpenAPI schema."""
    return [
        _operation(method, path, one) for path, methods in schema["paths"].items() for method, one in methods.items()
    ]


def _operation(method: str, path: str, one: Mapping[str, Any]) -> Operation:
    parameters = [(each["name"], each["in"], each.get("description", "")) for each in one.get("parameters", [])]
    answers = [(code, each.get("description", "")) for code, each in sorted(one["responses"].items())]
    return Operation(method.upper(), path, one.get("description", ""), tuple(parameters), tuple(answers))
