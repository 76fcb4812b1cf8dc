"""What candidates must have in common to be trained in one forward pass, as far as it is known before they are built.

`evaluators/packing.py` looks at what was built and has the last word. Here is no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from search_space.candidate import Candidate, Part
from search_space.space import Space

WORTH = 1.1
"""Packing is used where it is at least this much faster."""

_OF_BOTTLENECKS = ("r", "scaling")
_OF_LORA = ("r", "alpha", "use_rslora")
_FREE = {
    "lora": _OF_LORA,
    "lora_plus": (*_OF_LORA, "ratio"),
    "serial_adapter": _OF_BOTTLENECKS,
    "parallel_adapter": _OF_BOTTLENECKS,
}
"""The methods that can be packed, with those of their knobs that may differ from run to run."""
_FREE_OF_RECIPE = ("label_smoothing", "weight_decay", "mixup")


def shape_of(candidate: Candidate) -> str | None:
    """Return what candidates must have in common to share a forward pass, as text; None where it never can.

    Methods, places and whatever changes the form of what is computed. Learning rates may differ, and sizes that are one
    for all layers.
    """
    if candidate.recipe.dropout or not all(part.method in _FREE and _is_plain(part) for part in candidate.parts):
        return None
    parts = [(part.method, str(part.placement), list(_held(part))) for part in candidate.parts]
    return json.dumps([parts, candidate.recipe.training_share])


def held(space: Space, candidate: Candidate) -> dict[str, str | int | float] | None:
    """Return the parameters of a candidate that all have in common who may share its forward pass.

    None where it never can, is not in the space, or where nothing else than these parameters is searched.
    """
    if shape_of(candidate) is None:
        return None
    try:
        known = space.encode(candidate)
    except ValueError:
        return None
    free = set(_free(space))
    kept = {name: value for name, value in known.items() if name not in free}
    return kept if len(kept) < len(known) else None


def _is_plain(part: Part) -> bool:
    knobs = dict(part.knobs)
    return not knobs.get("use_dora") and not knobs.get("per_task") and "embeddings" not in part.placement.projections


def _held(part: Part) -> Iterator[tuple[str, object]]:
    for name, value in part.knobs:
        if name not in _FREE[part.method] or isinstance(value, tuple):
            yield name, value


def _free(space: Space) -> Iterator[str]:
    """Yield the names of the parameters that may differ from run to run."""
    for label, part in space.parts.items():
        yield f"{label}.learning_rate"
        for knob in part.knobs:
            if knob.name in _FREE.get(part.rule.name, ()) and knob.name != part.absence:
                yield from (f"{label}.{knob.name}", f"{label}.{knob.name}.index")
    yield from (f"recipe.{name}.index" for name in _FREE_OF_RECIPE)
    yield "recipe.head_learning_rate"
