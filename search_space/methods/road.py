"""RoAd: outputs rotated and scaled in pairs (Liao & Monz 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's RoadConfig."""
    require_divisor(part, "group_size", [site.out_features for site in targets.sites])
    return {"variant": part["variant"], "group_size": part["group_size"], "target_modules": targets.names}


METHOD = Method(
    name="road",
    title="RoAd",
    family="reparameterized",
    paper="Liao & Monz 2024, arXiv:2409.00119",
    summary="Rotates and scales pairs of outputs.",
    knobs=(
        words("variant", ("road_1", "road_2", "road_4"), "parameters of a pair: one, two or four of each"),
        sizes(
            "group_size",
            (2, 4, 8, 16, 32, 64),
            64,
            "outputs that are paired within a group; it divides the output width",
            low=2,
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
    learning_rate=LogRange(0.001, 0.03, 0.005),
    route="inject",
    peft_type="ROAD",
    merges=True,
    config=config,
)
