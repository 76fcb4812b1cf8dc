"""The table of what methods can do and which can share a model, as `python -m evaluators.capabilities` found it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

CHECKS = ("attaches", "trains", "counts", "reloads", "merges")
"""What is tried: it can be attached, trained, counted from shapes alone, reloaded to equal outputs, merged."""

TABLE_FILE = Path(__file__).with_name("capabilities.json")

Sharing = Literal["shared", "disjoint"]


def why_not(method: str, check: str, family: str) -> str:
    """Return why a method fails a check on a family of models; empty where it does not, or was never tried."""
    return str(_table()["methods"].get(method, {}).get(family, {}).get(check, ""))


def can(method: str, check: str) -> tuple[str, ...]:
    """Return the families on which a method passes a check."""
    families = _table()["methods"].get(method, {})
    return tuple(family for family, failed in families.items() if check not in failed)


def why_not_together(first: str, second: str, layers: Sharing) -> str:
    """Return why two methods, attached in this order, cannot share a model; empty where they can.

    Args:
        first: The method attached first.
        second: The other.
        layers: `shared` for the same modules, `disjoint` for modules of different layers.
    """
    return str(_table()["refused_pairs"].get(f"{first} + {second}", {}).get(layers, ""))


@cache
def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(TABLE_FILE.read_text())
    return table
