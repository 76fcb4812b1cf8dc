"""The named hybrids and the methods that they are made of."""

from typing import Any

from search_space.hybrids import NAMED

PRESET: dict[str, Any] = {
    "methods": {name: {} for name in sorted({name for text in NAMED.values() for name in text.split(" + ")})},
    "hybrids": list(NAMED.values()),
}
