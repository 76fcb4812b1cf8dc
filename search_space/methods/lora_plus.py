"""LoRA+: LoRA whose B learns faster than its A (Hayou, Ghosh & Yu 2024)."""

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
    name="lora_plus",
    title="LoRA+",
    family="reparameterized",
    paper="Hayou, Ghosh & Yu 2024, arXiv:2402.12354",
    summary="LoRA with a learning rate of its own for B; the learning rate of the part is that of A.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale"),
        sizes("ratio", (2, 4, 8, 16), 4, "learning rate of B divided by that of A", per_layer=False),
        flag("use_rslora", "scale by alpha / sqrt(r) (rsLoRA)", shapes=False),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
    ),
    learning_rate=LogRange(1e-4, 4e-3, 1e-3),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
    hook="LORA_PLUS",
)
