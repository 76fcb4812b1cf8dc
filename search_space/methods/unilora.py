"""Uni-LoRA: all LoRA matrices of a model are filled from one trained vector (Li et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's UniLoraConfig."""
    return {"r": part["r"], "theta_d_length": part["theta_d_length"], "target_modules": targets.names}


METHOD = Method(
    name="unilora",
    title="Uni-LoRA",
    family="reparameterized",
    paper="Li et al. 2025, arXiv:2506.00799",
    summary="Fills the LoRA matrices of the whole model from one trained vector.",
    knobs=(
        sizes("r", (2, 4, 8, 16), 4, "rank"),
        sizes(
            "theta_d_length",
            (64, 256, 1024, 4096, 16384),
            1024,
            "length of the vector: the number of parameters",
            per_layer=False,
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
    ),
    learning_rate=LogRange(0.001, 0.03, 0.005),
    route="inject",
    peft_type="UNILORA",
    merges=True,
    config=config,
)
