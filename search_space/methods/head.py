"""The frozen backbone with a trained head: the reference that every method must beat (linear probing)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return nothing: peft has no part in it."""
    return {}


METHOD = Method(
    name="head",
    title="Head only",
    family="selective",
    paper="Alain & Bengio 2017, arXiv:1610.01644",
    summary="Trains the task's head on the frozen backbone.",
    knobs=(),
    placement=PlacementRule(default=Placement(), layers=False, kinds=()),
    learning_rate=LogRange(5e-4, 2e-2, 2e-3),
    route="head",
    peft_type="",
    merges=True,
    config=config,
)
