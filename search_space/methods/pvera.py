"""PVeRA: VeRA with a distribution over its inner activations (Fillioux et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PveraConfig."""
    return {"r": part["r"], "projection_prng_key": 0, "target_modules": targets.names}


METHOD = Method(
    name="pvera",
    title="PVeRA",
    family="reparameterized",
    paper="Fillioux et al. 2025, arXiv:2512.07703",
    summary="VeRA whose inner activations are drawn while it trains.",
    knobs=(sizes("r", (32, 64, 128, 256), 128, "rank of the shared projections"),),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
    ),
    learning_rate=LogRange(0.002, 0.05, 0.01),
    route="inject",
    peft_type="PVERA",
    merges=True,
    config=config,
)
