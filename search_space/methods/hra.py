"""HRA: weights rotated by a chain of Householder reflections (Yuan, Liu & Xu 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, flag, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's HRAConfig."""
    return {"r": part["r"], "apply_GS": part["apply_GS"], "target_modules": targets.names}


METHOD = Method(
    name="hra",
    title="HRA",
    family="reparameterized",
    paper="Yuan, Liu & Xu 2024, arXiv:2405.17484",
    summary="Rotates weight matrices by a chain of reflections.",
    knobs=(
        sizes("r", (2, 4, 8, 16, 32), 8, "number of reflections; even, so that training starts at the backbone"),
        flag("apply_GS", "make the reflections orthogonal to each other"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
        kinds=("linear",),
    ),
    learning_rate=LogRange(0.0005, 0.01, 0.002),
    route="inject",
    peft_type="HRA",
    merges=True,
    config=config,
)
