"""MiCA: LoRA on the smallest singular directions of the outputs, which stay fixed (arXiv:2604.01694)."""

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
        "lora_alpha": part["alpha"],
        "init_lora_weights": "mica",
        "target_modules": targets.names,
    }


METHOD = Method(
    name="mica",
    title="MiCA",
    family="reparameterized",
    paper="Minor Component Adaptation 2026, arXiv:2604.01694",
    summary="LoRA whose B is fixed to the minor left singular directions of weight matrices; only A is trained.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(5e-4, 1e-2, 2e-3),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
    frozen=("lora_B",),
)
