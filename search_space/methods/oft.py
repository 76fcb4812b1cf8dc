"""OFT: weights rotated by block-diagonal orthogonal matrices (Qiu et al. 2023)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, flag, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's OFTConfig."""
    require_divisor(part, "oft_block_size", [site.in_features for site in targets.sites])
    return {
        "oft_block_size": part["oft_block_size"],
        "block_share": part["block_share"],
        "coft": part["coft"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="oft",
    title="OFT",
    family="reparameterized",
    paper="Qiu et al. 2023, arXiv:2306.07280",
    summary="Rotates weight matrices block by block.",
    knobs=(
        sizes("oft_block_size", (4, 8, 16, 32, 64), 16, "size of a rotated block; it divides the input width"),
        flag("block_share", "rotate all blocks of a matrix alike"),
        flag("coft", "bound the rotation (constrained OFT)"),
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
    learning_rate=LogRange(0.0005, 0.01, 0.003),
    route="inject",
    peft_type="OFT",
    merges=True,
    config=config,
)
