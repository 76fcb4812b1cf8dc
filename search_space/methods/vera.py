"""VeRA: shared frozen random projections, trained scaling vectors (Kopiczko et al. 2024, equation 2)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's VeraConfig."""
    return {"r": part["r"], "vera_dropout": 0.0, "projection_prng_key": 0, "target_modules": targets.names}


METHOD = Method(
    name="vera",
    title="VeRA",
    family="reparameterized",
    paper="Kopiczko, Blankevoort & Asano 2024, arXiv:2310.11454",
    summary="Trains scaling vectors around random matrices that all layers share.",
    knobs=(sizes("r", (32, 64, 128, 256), 128, "rank of the shared projections"),),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(2e-3, 5e-2, 1e-2),
    route="inject",
    peft_type="VERA",
    merges=True,
    config=config,
)
