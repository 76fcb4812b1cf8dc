"""TinyLoRA: a few numbers, projected at random into the singular directions of W (Morris et al. 2026)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, shares, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's TinyLoraConfig."""
    return {"r": part["r"], "u": part["u"], "weight_tying": part["weight_tying"], "target_modules": targets.names}


METHOD = Method(
    name="tinylora",
    title="TinyLoRA",
    family="reparameterized",
    paper="Morris et al. 2026, arXiv:2602.04118",
    summary="Trains a handful of numbers for each matrix, projected into its singular directions.",
    knobs=(
        sizes("r", (1, 2, 4, 8), 2, "singular directions"),
        sizes("u", (1, 4, 16, 64, 256), 64, "trained numbers"),
        shares("weight_tying", (0.0, 0.5, 1.0), 0.0, "share of the matrices that use the same numbers", (0.0, 1.0)),
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
    learning_rate=LogRange(0.001, 0.05, 0.01),
    route="inject",
    peft_type="TINYLORA",
    merges=True,
    config=config,
    adds_up=False,
)
