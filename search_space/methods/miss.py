"""MiSS: one small matrix shared by the shards of a weight (Kang & Yin 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's MissConfig."""
    return {"r": part["r"], "init_weights": part["init_weights"] == "plain" or "bat", "target_modules": targets.names}


METHOD = Method(
    name="miss",
    title="MiSS",
    family="reparameterized",
    paper="Kang & Yin 2024, arXiv:2409.15371",
    summary="Adds one small matrix to all shards of a weight matrix.",
    knobs=(
        sizes("r", (2, 4, 8, 16, 32, 64), 16, "number of shards of the input"),
        words(
            "init_weights",
            ("plain", "bat"),
            "the plain form, or Bat, which multiplies with the weight; it needs r to divide both widths",
        ),
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
    learning_rate=LogRange(0.0002, 0.005, 0.001),
    route="inject",
    peft_type="MISS",
    merges=True,
    config=config,
)
