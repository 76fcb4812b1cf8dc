"""Every method that goes on a model beside others, and every named hybrid; what a model cannot carry is left out."""

from typing import Any

from search_space.hybrids import NAMED
from search_space.registry import methods

PRESET: dict[str, Any] = {
    "methods": {name: {} for name, one in methods().items() if one.route in ("inject", "prompt")},
    "hybrids": list(NAMED.values()),
}
