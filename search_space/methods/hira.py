"""HiRA: a low-rank matrix multiplied element by element with the weight, W + W ∘ B A (Huang et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's HiraConfig."""
    return {"r": part["r"], "target_modules": targets.names}


METHOD = Method(
    name="hira",
    title="HiRA",
    family="reparameterized",
    paper="Huang et al. 2025, https://openreview.net/forum?id=TwJrTz9cRS",
    summary="Multiplies weight matrices element by element with a low-rank matrix, for updates of high rank.",
    knobs=(sizes("r", (2, 4, 8, 16, 32, 64), 16, "rank"),),
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
    peft_type="HIRA",
    merges=True,
    config=config,
)
