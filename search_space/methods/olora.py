"""OLoRA: LoRA that starts from the first columns of the QR decomposition of the weight (Büyükakyüz 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_at_most
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    require_at_most(part, "r", (min(site.in_features, site.out_features) for site in targets.sites))
    return {
        "r": part["r"],
        "lora_alpha": part["r"],
        "init_lora_weights": "olora",
        "target_modules": targets.names,
    }


METHOD = Method(
    name="olora",
    title="OLoRA",
    family="reparameterized",
    paper="Büyükakyüz 2024, arXiv:2406.01775",
    summary="LoRA on an orthonormal basis of weight matrices; what is left of them stays frozen.",
    knobs=(sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(1e-4, 3e-3, 5e-4),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
    rewrites=True,
)
