"""The table of what methods can do and which can share a model, as `python -m evaluators.capabilities` found it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from search_space.candidate import KnobValue

CHECKS = ("attaches", "trains", "counts", "reloads", "merges")
"""What is tried: it can be attached, trained, counted from shapes alone, reloaded to equal outputs, merged."""

TO_TRAIN = ("attaches", "trains", "reloads")
"""What a candidate must pass to be searched."""

PAIR_FAMILIES = ("bert", "llama", "t5")
"""Architectures that pairs of methods are tried on: an encoder, a decoder, and one of both."""

TABLE_FILE = Path(__file__).with_name("capabilities.json")

Sharing = Literal["shared", "disjoint"]


def why_not(method: str, check: str, architecture: str) -> str:
    """Return why a method fails a check on an architecture; empty where it does not, or was never tried."""
    failed = _table()["methods"].get(method, {}).get(architecture, {})
    return str(failed.get("attaches") or failed.get(check, ""))


def why_not_quantised(method: str, check: str, quantization: str, device: str = "cpu") -> str:
    """Return why a method fails a check on quantised weights; empty where it does not, or was never tried.

    Args:
        method: Its name.
        check: One of `CHECKS`.
        quantization: How the weights are quantised.
        device: Where they are: `cpu` or `cuda`, whose kernels are others.
    """
    failed = _quantised(method, device).get(quantization, {})
    return str(failed.get("attaches") or failed.get(check, ""))


def why_not_per_task(method: str) -> str:
    """Return why a method cannot have an adapter for each of several tasks; empty where it can, or was never tried."""
    return str(_table()["per_task"].get(method, ""))


def can(method: str, check: str) -> tuple[str, ...]:
    """Return the architectures on which a method passes a check."""
    tried = _table()["methods"].get(method, {})
    return tuple(architecture for architecture in tried if not why_not(method, check, architecture))


def tried_on() -> tuple[str, ...]:
    """Return the architectures that methods were tried on."""
    return tuple(sorted({architecture for rows in _table()["methods"].values() for architecture in rows}))


def quantisations() -> tuple[str, ...]:
    """Return the kinds of quantised weights that methods were tried on."""
    return tuple(sorted({kind for rows in _table()["quantised"]["cpu"].values() for kind in rows}))


def trains_quantised(method: str, device: str = "cpu") -> tuple[str, ...]:
    """Return the kinds of quantised weights on which a method can be trained and reloaded on a device."""
    kinds = _quantised(method, device)
    return tuple(
        kind for kind in kinds if not any(why_not_quantised(method, check, kind, device) for check in TO_TRAIN)
    )


def setting(knob: str, value: KnobValue) -> str:
    """Return a knob's value as the table and the notation name it: `use_dora=true`."""
    return f"{knob}={str(value).lower()}"


def refused_settings(method: str, quantization: str, device: str = "cpu") -> Mapping[str, str]:
    """Return why flags and words of a method cannot be trained on quantised weights, by `name=value`.

    Where they were tried on the CPU alone, what fails there is taken to fail elsewhere.
    """
    on_cpu, there = (_quantised(method, one).get(quantization, {}) for one in ("cpu", device))
    refused: Mapping[str, str] = there.get("knobs", on_cpu.get("knobs", {}))
    return refused


def why_not_setting(method: str, knob: str, value: KnobValue, quantization: str, device: str = "cpu") -> str:
    """Return why a method cannot be trained on quantised weights with a flag or a word; empty where it can."""
    return refused_settings(method, quantization, device).get(setting(knob, value), "")


def conversion_error(method: str) -> float | None:
    """Return what share of a method's effect a LoRA of rank 32 got wrong on a tiny model; None where none can be."""
    found = _table()["converts"].get(method)
    return found if isinstance(found, float | int) else None


def why_not_together(first: str, second: str, layers: Sharing, architecture: str) -> str:
    """Return why two methods, attached in this order, cannot share a model; empty where they can.

    Args:
        first: The method attached first.
        second: The other.
        layers: `shared` for the same modules, `disjoint` for modules of different layers.
        architecture: The model's. For one that pairs were not tried on, what fails anywhere counts as failing.
    """
    asked = (architecture,) if architecture in PAIR_FAMILIES else PAIR_FAMILIES
    refused = _table()["refused_pairs"]
    reasons = (refused.get(one, {}).get(f"{first} + {second}", {}).get(layers, "") for one in asked)
    return str(next(filter(None, reasons), ""))


def _quantised(method: str, device: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _table()["quantised"].get(device, {}).get(method, {})
    return found


@cache
def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(TABLE_FILE.read_text())
    return table
