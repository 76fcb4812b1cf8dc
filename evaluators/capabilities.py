"""Writes the table of what each method can do on each architecture, and of which methods can share a model.

`python -m evaluators.capabilities` tries everything on tiny random models and writes `search_space/capabilities.json`,
which `search_space.capability` reads; given names of methods, it tries those and leaves the rest of the table as it is.
With `--quantised cpu` or `--quantised cuda` it tries quantised weights there and nothing else; what a machine without
CUDA cannot try, the table keeps. Nothing in that table is written by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from evaluators.probing import (
    ARITHMETIC,
    probe_conversion,
    probe_method,
    probe_pair,
    probe_per_task,
    probe_quantised,
)
from evaluators.quantization import QUANTIZATIONS
from evaluators.specimens import SPECIMENS
from search_space.capability import PAIR_FAMILIES, TABLE_FILE
from search_space.files import atomic_write
from search_space.registry import methods


def probe_everything(only: Sequence[str] = (), known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the whole table, as JSON data.

    Args:
        only: Methods to try, and the pairs that they are in; all when empty.
        known: A table whose other entries are kept.
    """
    names = _names()
    tried = [name for name in names if name in only or not only]
    known = known or {}
    if not only:
        known = {key: entry for key, entry in known.items() if key == "quantised"}
    alone = {name: {family: probe_method(name, family) for family in SPECIMENS} for name in tried}
    alone = _kept(known.get("methods", {}), names) | alone
    converts = {name: probe_conversion(name) for name in tried}
    per_task = {name: reason for name in tried if (reason := probe_per_task(name))}
    still = {name: reason for name, reason in known.get("per_task", {}).items() if name in names and name not in tried}
    pairs = {
        family: _refused(family, alone, tried, known.get("refused_pairs", {}).get(family, {}))
        for family in PAIR_FAMILIES
    }
    return {
        "methods": alone,
        "quantised": known.get("quantised", {}) | {"cpu": probe_all_quantised("cpu", tried, known)},
        "converts": _kept(known.get("converts", {}), names) | converts,
        "per_task": still | per_task,
        "refused_pairs": pairs,
    }


def probe_all_quantised(device: str, only: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what methods can do on quantised weights on a device, as JSON data.

    Args:
        device: `cpu` or `cuda`.
        only: Methods to try; all when empty.
        known: A table whose entries for other methods are kept.
    """
    names = _names()
    tried = [name for name in names if name in only or not only]
    found = {name: {kind: probe_quantised(name, kind, device) for kind in QUANTIZATIONS} for name in tried}
    return _kept(known.get("quantised", {}).get(device, {}), names) | found


def _names() -> list[str]:
    return [name for name, one in methods().items() if one.route in ("inject", "prompt")]


def _kept(known: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: entry for name, entry in known.items() if name in names}


def _refused(
    family: str, alone: Mapping[str, Any], tried: Sequence[str], known: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    carried = [name for name in sorted(alone) if not alone[name][family].keys() & {"attaches", "trains", "reloads"}]
    refused = {}
    for first, second in product(carried, repeat=2):
        pair = f"{first} + {second}"
        if {first, second} & set(tried):
            reasons = {layers: probe_pair(first, second, layers, family) for layers in ("shared", "disjoint")}
        else:
            reasons = dict(known.get(pair, {}))
        if reasons := {layers: reason for layers, reason in reasons.items() if reason}:
            refused[pair] = reasons
    return refused


def main() -> None:
    """Write the table, or the rows of the methods that the command names."""
    parser = argparse.ArgumentParser(prog="python -m evaluators.capabilities")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="try these alone; all without")
    parser.add_argument("--quantised", choices=ARITHMETIC, metavar="DEVICE", help="quantised weights there, no more")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(TABLE_FILE.read_text())
    if given.quantised:
        rows = probe_all_quantised(given.quantised, given.methods, known)
        found = known | {"quantised": known["quantised"] | {given.quantised: rows}}
    else:
        found = probe_everything(given.methods, known)
    atomic_write(Path(TABLE_FILE), json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
