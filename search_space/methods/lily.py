"""Lily: low-rank updates whose second factors are experts that all layers share (Zhong, Zhao & Zhou 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LilyConfig."""
    return {"r": part["r"], "stride_A": part["stride_A"], "num_B": part["num_B"], "target_modules": targets.names}


METHOD = Method(
    name="lily",
    title="Lily",
    family="reparameterized",
    paper="Zhong, Zhao & Zhou 2024, arXiv:2407.09946",
    summary="Connects low-rank updates across layers through shared experts.",
    knobs=(
        sizes("r", (4, 8, 16, 32), 16, "rank"),
        sizes("stride_A", (1, 2), 1, "neighbouring layers that share the first factor"),
        sizes("num_B", (2, 3, 4), 2, "number of shared second factors", low=2),
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
    learning_rate=LogRange(0.0005, 0.008, 0.002),
    route="inject",
    peft_type="LILY",
    merges=False,
    config=config,
    adds_up=False,
)
