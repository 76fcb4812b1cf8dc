"""Compacter: serial adapters whose matrices are sums of Kronecker products (Karimi Mahabadi et al. 2021)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor, whole
from search_space.knobs import LogRange, flag, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our CompacterConfig."""
    require_divisor(part, "n", [site.out_features for site in targets.sites] + [whole(part, "r")])
    return {
        "r": part["r"],
        "n": part["n"],
        "shared": not part["per_layer"],
        "factorised": not part["dense"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="compacter",
    title="Compacter",
    family="additive",
    paper="Karimi Mahabadi, Henderson & Ruder 2021, arXiv:2106.04647",
    summary="Serial adapters made of Kronecker products that all layers share.",
    knobs=(
        sizes("r", (8, 16, 32, 64), 32, "width of the bottleneck; a multiple of n"),
        sizes("n", (2, 4, 8), 4, "terms of the sum; it divides the width and r"),
        flag("per_layer", "give each module its own small matrices instead of shared ones"),
        flag("dense", "do not factorise the large matrices (PHM adapters)"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.output,mlp.down"),
        projections=(
            "attention.output,mlp.down",
            "mlp.down",
            "attention.output",
        ),
        kinds=(
            "linear",
            "conv1d",
            "norm",
        ),
    ),
    learning_rate=LogRange(0.001, 0.02, 0.005),
    route="inject",
    peft_type="COMPACTER",
    merges=False,
    config=config,
)
