"""OLoRA: LoRA that starts with the QR factors of the weight (Büyükakyüz 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    return {"r": part["r"], "lora_alpha": part["r"], "init_lora_weights": "olora", "target_modules": targets.names}


METHOD = Method(
    name="olora",
    title="OLoRA",
    family="reparameterized",
    paper="Büyükakyüz 2024, arXiv:2406.01775",
    summary="LoRA that starts from an orthonormal basis of weight matrices.",
    knobs=(sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),),
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
    learning_rate=LogRange(0.0001, 0.003, 0.0005),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
)
