"""RandLoRA: a full-rank update of scaled random low-rank matrices (Albert et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's RandLoraConfig."""
    return {"r": part["r"], "randlora_alpha": part["alpha"], "projection_prng_key": 0, "target_modules": targets.names}


METHOD = Method(
    name="randlora",
    title="RandLoRA",
    family="reparameterized",
    paper="Albert et al. 2025, arXiv:2502.00987",
    summary="Adds scaled random low-rank matrices up to full rank. A smaller r has more parameters.",
    knobs=(
        sizes(
            "r",
            (8, 16, 32, 64),
            32,
            "rank of each random matrix; a smaller one means more of them, and more parameters",
        ),
        sizes("alpha", (64, 128, 320, 640), 640, "numerator of the scale", shapes=False),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
    ),
    learning_rate=LogRange(0.0002, 0.01, 0.002),
    route="inject",
    peft_type="RANDLORA",
    merges=True,
    config=config,
)
