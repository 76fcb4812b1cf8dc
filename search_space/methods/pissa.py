"""PiSSA: LoRA that starts with the largest singular directions of the weight and takes them out (Meng et al. 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_at_most
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    require_at_most(part, "r", [min(site.in_features, site.out_features) for site in targets.sites])
    return {"r": part["r"], "lora_alpha": part["r"], "init_lora_weights": "pissa", "target_modules": targets.names}


METHOD = Method(
    name="pissa",
    title="PiSSA",
    family="reparameterized",
    paper="Meng, Wang & Zhang 2024, arXiv:2404.02948",
    summary="LoRA on the principal singular directions of weight matrices; what is left of them stays frozen.",
    knobs=(sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
    ),
    learning_rate=LogRange(0.0001, 0.003, 0.0005),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
)
