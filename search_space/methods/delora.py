"""DeLoRA: a low-rank update of normalised directions with a learned strength (Bini, Girrbach & Akata 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's DeloraConfig."""
    return {"r": part["r"], "delora_lambda": part["delora_lambda"], "target_modules": targets.names}


METHOD = Method(
    name="delora",
    title="DeLoRA",
    family="reparameterized",
    paper="Bini, Girrbach & Akata 2025, arXiv:2503.18225",
    summary="Learns the direction and the strength of a low-rank update apart.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("delora_lambda", (4, 8, 15, 30), 15, "bound of the strength at the start", shapes=False),
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
    learning_rate=LogRange(0.001, 0.02, 0.005),
    route="inject",
    peft_type="DELORA",
    merges=True,
    config=config,
)
