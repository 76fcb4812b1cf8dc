"""Defaults are part of the format: candidates leave them out of their JSON."""

import json
from pathlib import Path

from search_space.registry import methods

_PINNED = Path(__file__).with_name("defaults.json")


def test_no_default_of_a_knob_has_changed() -> None:
    pinned = json.loads(_PINNED.read_text())
    now = {name: {knob.name: knob.default for knob in one.knobs} for name, one in methods().items()}
    changed = {
        f"{name}.{knob}": (value, now.get(name, {}).get(knob))
        for name, knobs in pinned.items()
        for knob, value in knobs.items()
        if now.get(name, {}).get(knob) != value
    }
    assert not changed, "a default that changes needs a new schema version: candidates leave defaults out of their JSON"


def test_every_method_is_pinned() -> None:
    pinned = json.loads(_PINNED.read_text())
    missing = {
        name: [k.name for k in one.knobs if k.name not in pinned.get(name, {})] for name, one in methods().items()
    }
    missing = {name: knobs for name, knobs in missing.items() if knobs or name not in pinned}
    assert not missing, f"add the defaults of these knobs to {_PINNED.name}: {missing}"
