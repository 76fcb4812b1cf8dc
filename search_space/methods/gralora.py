"""GraLoRA: a grid of k x k blocks, each with a low-rank update of its own (Jung et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor, whole
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's GraloraConfig."""
    require_divisor(
        part,
        "gralora_k",
        [site.in_features for site in targets.sites]
        + [site.out_features for site in targets.sites]
        + [whole(part, "r")],
    )
    return {"r": part["r"], "alpha": part["alpha"], "gralora_k": part["gralora_k"], "target_modules": targets.names}


METHOD = Method(
    name="gralora",
    title="GraLoRA",
    family="reparameterized",
    paper="Jung et al. 2025, arXiv:2505.20355",
    summary="Cuts weight matrices into blocks and adds a low-rank update to each.",
    knobs=(
        sizes("r", (4, 8, 16, 32, 64), 16, "rank; a multiple of k"),
        sizes("alpha", (8, 16, 32, 64), 32, "numerator of the scale", shapes=False),
        sizes("gralora_k", (2, 4), 2, "blocks in a row; it divides both widths and the rank"),
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
    learning_rate=LogRange(0.0005, 0.008, 0.002),
    route="inject",
    peft_type="GRALORA",
    merges=True,
    config=config,
)
