"""JSON documents: what a calibrator is written to, and the strict reading of it.

A document is a dictionary of JSON values with a `schema_version` and a `kind`. Reading refuses unknown and missing
keys, other versions, `true` for a number, NaN and infinities: a calibrator that was half understood is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from calibration.errors import DocumentError

SCHEMA_VERSION = 1


def headed(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of a kind, with the version on top."""
    return {"schema_version": SCHEMA_VERSION, "kind": kind, **fields}


class Fields:
    """The fields of one document, read by name and type; every complaint is a DocumentError.

    Args:
        document: The dictionary that was read.
        name: What it is, for messages.
        names: Exactly the keys that it must have.
    """

    def __init__(self, document: Mapping[str, Any], name: str, names: set[str]) -> None:
        if not isinstance(document, Mapping):
            raise DocumentError(f"{name} is a {type(document).__name__}; a JSON object is needed.")
        unknown, missing = set(document) - names, names - set(document)
        if unknown or missing:
            raise DocumentError(
                f"{name} has unknown keys {sorted(map(str, unknown))} and lacks {sorted(missing)}; "
                f"exactly {sorted(names)} are needed."
            )
        self._document = document
        self._name = name

    @classmethod
    def headed(cls, document: Mapping[str, Any], kinds: Sequence[str], names: set[str]) -> Fields:
        """Return the fields of a document with a version and one of these kinds, both checked."""
        fields = cls(document, f"a document of kind {' or '.join(kinds)}", {"schema_version", "kind", *names})
        version = fields.integer("schema_version", minimum=0)
        if version != SCHEMA_VERSION:
            raise DocumentError(f"the document has schema_version {version}; this version reads {SCHEMA_VERSION}.")
        fields.choice("kind", kinds)
        return fields

    def number(
        self, key: str, *, above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf
    ) -> float:
        """Return a finite number, greater than `above`, no smaller than `at_least` and smaller than `below`."""
        value = self._number(self._document[key], key)
        for held, needed in (
            (value > above, f"a number above {above:g}"),
            (value >= at_least, f"a number of at least {at_least:g}"),
            (value < below, f"a number below {below:g}"),
        ):
            if not held:
                raise self._wrong(key, needed)
        return value

    def number_or_none(self, key: str) -> float | None:
        """Return a finite number, or None for null."""
        return None if self._document[key] is None else self.number(key)

    def numbers(self, key: str, *, least: int = 1) -> tuple[float, ...]:
        """Return a list of at least `least` finite numbers."""
        return tuple(self._number(value, f"{key}[{i}]") for i, value in enumerate(self.items(key, least=least)))

    def items(self, key: str, *, least: int = 1) -> Sequence[Any]:
        """Return a list of at least `least` items."""
        values = self._document[key]
        if not isinstance(values, (list, tuple)) or len(values) < least:
            raise self._wrong(key, f"a list of at least {least}")
        return values

    def integer(self, key: str, *, minimum: int) -> int:
        """Return an integer of at least `minimum`."""
        value = self._document[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(key, f"an integer of at least {minimum}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._document[key]
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def text(self, key: str) -> str:
        """Return a string."""
        value = self._document[key]
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """Return one of the allowed strings."""
        value = self._document[key]
        if not isinstance(value, str) or value not in allowed:
            raise self._wrong(key, f"one of {', '.join(allowed)}")
        return value

    def document(self, key: str) -> dict[str, Any]:
        """Return a nested object."""
        value = self._document[key]
        if not isinstance(value, dict):
            raise self._wrong(key, "a JSON object")
        return value

    def _number(self, value: Any, key: str) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise DocumentError(f"{self._name}: {key} is {value!r}; a finite number is needed.")
        return float(value)

    def _wrong(self, key: str, needed: str) -> DocumentError:
        return DocumentError(f"{self._name}: {key} is {self._document[key]!r}; {needed} is needed.")
