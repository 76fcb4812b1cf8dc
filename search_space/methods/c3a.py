"""C3A: an update of block-circulant matrices, applied as circular convolutions (Chen et al. 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's C3AConfig."""
    require_divisor(
        part, "block_size", [site.in_features for site in targets.sites] + [site.out_features for site in targets.sites]
    )
    return {"block_size": part["block_size"], "target_modules": targets.names}


METHOD = Method(
    name="c3a",
    title="C3A",
    family="reparameterized",
    paper="Chen et al. 2024, arXiv:2407.19342",
    summary="Adds a block-circulant update, of high rank with few parameters.",
    knobs=(
        sizes(
            "block_size",
            (16, 32, 64, 128, 192, 384),
            64,
            "size of a circulant block, larger is smaller; it divides both widths",
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
        kinds=("linear",),
    ),
    learning_rate=LogRange(0.02, 1.0, 0.2),
    route="inject",
    peft_type="C3A",
    merges=True,
    config=config,
)
