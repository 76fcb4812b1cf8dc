"""EVA: LoRA whose A starts as the main directions of what goes into the module (Paischer et al. 2024, section 3)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    return {"r": part["r"], "lora_alpha": part["alpha"], "target_modules": targets.names}


METHOD = Method(
    name="eva",
    title="EVA",
    family="reparameterized",
    paper="Paischer et al. 2024, arXiv:2410.07170",
    summary="LoRA that starts from the main directions of what goes into its modules on training data.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
    ),
    learning_rate=LogRange(5e-4, 8e-3, 2e-3),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
    hook="EVA",
)
