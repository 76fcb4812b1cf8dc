"""FRoD: a sparse change within a basis that the layers share, U (S + L) V (AAAI 2026)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, shares
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's FrodConfig."""
    return {
        "sparse_rate": part["sparse_rate"],
        "progressbar": False,
        "target_modules": targets.names,
    }


METHOD = Method(
    name="frod",
    title="FRoD",
    family="reparameterized",
    paper="AAAI 2026, https://doi.org/10.1609/aaai.v40i31.39813",
    summary="Decomposes the weights of all layers jointly and trains their scales and a sparse rotation.",
    knobs=(
        shares(
            "sparse_rate",
            (0.001, 0.002, 0.005, 0.01, 0.02),
            0.01,
            "share of the entries beside the diagonal that is trained",
            (1e-4, 1.0),
        ),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(5e-4, 1e-2, 2e-3),
    route="inject",
    peft_type="FROD",
    merges=True,
    config=config,
)
