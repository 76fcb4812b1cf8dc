"""BOFT: weights rotated by a product of butterfly-factorised orthogonal matrices (Liu et al. 2024, equation 2)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's BOFTConfig."""
    require_divisor(part, "boft_block_size", [site.in_features for site in targets.sites])
    return {
        "boft_block_size": part["boft_block_size"],
        "boft_n_butterfly_factor": part["boft_n_butterfly_factor"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="boft",
    title="BOFT",
    family="reparameterized",
    paper="Liu et al. 2024, arXiv:2311.06243",
    summary="Rotates weight matrices by sparse orthogonal factors.",
    knobs=(
        sizes("boft_block_size", (2, 4, 8, 16, 32), 4, "size of a rotated block; it divides the input width"),
        sizes("boft_n_butterfly_factor", (1, 2, 3), 1, "number of butterfly factors"),
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
    peft_type="BOFT",
    merges=True,
    config=config,
)
