"""BEFT: a trained bias on few projections, the values by default (Huang et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's BeftConfig."""
    return {"target_modules": targets.names}


METHOD = Method(
    name="beft",
    title="BEFT",
    family="selective",
    paper="Huang et al. 2025, arXiv:2509.15974",
    summary="Trains an added bias on the value projections; it merges where they have a bias.",
    knobs=(),
    placement=PlacementRule(
        default=Placement.parse("attention.value"),
        projections=(
            "attention.value",
            "attention.query,attention.value",
            "linear",
        ),
        kinds=("linear",),
    ),
    learning_rate=LogRange(0.001, 0.02, 0.005),
    route="inject",
    peft_type="BEFT",
    merges=True,
    config=config,
)
