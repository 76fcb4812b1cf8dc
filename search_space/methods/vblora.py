"""VB-LoRA: low-rank matrices composed of vectors out of one bank (Li, Han & Ji 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's VBLoRAConfig."""
    require_divisor(
        part,
        "vector_length",
        [site.in_features for site in targets.sites] + [site.out_features for site in targets.sites],
    )
    return {
        "r": part["r"],
        "num_vectors": part["num_vectors"],
        "vector_length": part["vector_length"],
        "topk": part["topk"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="vblora",
    title="VB-LoRA",
    family="reparameterized",
    paper="Li, Han & Ji 2024, arXiv:2405.15179",
    summary="Composes the LoRA matrices of the whole model out of one bank of vectors.",
    knobs=(
        sizes("r", (2, 4, 8), 4, "rank"),
        sizes("num_vectors", (16, 32, 64, 128, 256), 64, "vectors in the bank"),
        sizes("vector_length", (16, 32, 64, 128), 64, "length of a vector; it divides both widths"),
        sizes("topk", (2, 4), 2, "vectors mixed in each place"),
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
    peft_type="VBLORA",
    merges=True,
    config=config,
)
