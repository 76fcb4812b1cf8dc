"""LoRA-FA: LoRA whose A stays as it was drawn (Zhang et al. 2023)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, flag, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    return {
        "r": part["r"],
        "lora_alpha": part["alpha"],
        "use_rslora": part["use_rslora"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="lora_fa",
    title="LoRA-FA",
    family="reparameterized",
    paper="Zhang et al. 2023, arXiv:2308.03303",
    summary="LoRA that trains B alone, so that nothing of the input has to be kept but its projection.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale"),
        flag("use_rslora", "scale by alpha / sqrt(r) (rsLoRA)", shapes=False),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
    ),
    learning_rate=LogRange(1e-3, 2e-2, 4e-3),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
    frozen=("lora_A",),
)
