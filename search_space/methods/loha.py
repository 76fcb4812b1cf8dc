"""LoHa: a low-rank update made of two products, multiplied element by element (Hyeon-Woo, Ye-Bin & Oh 2022)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoHaConfig."""
    return {"r": part["r"], "alpha": part["alpha"], "target_modules": targets.names}


METHOD = Method(
    name="loha",
    title="LoHa",
    family="reparameterized",
    paper="Hyeon-Woo, Ye-Bin & Oh 2022, arXiv:2108.06098; Yeh et al. 2024, arXiv:2309.14859",
    summary="Adds the element-wise product of two low-rank matrices to frozen weight matrices.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32), 8, "rank of each product"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale", shapes=False),
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
    learning_rate=LogRange(0.0005, 0.01, 0.002),
    route="inject",
    peft_type="LOHA",
    merges=True,
    config=config,
)
