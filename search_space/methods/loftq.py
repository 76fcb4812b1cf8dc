"""LoftQ: LoRA that starts as the best low-rank repair of quantised weights (Li et al. 2023, algorithm 1 with T = 1)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    return {"r": part["r"], "lora_alpha": part["r"], "target_modules": targets.names}


METHOD = Method(
    name="loftq",
    title="LoftQ",
    family="quantized",
    paper="Li et al. 2023, arXiv:2310.08659",
    summary="LoRA on a quantised backbone, started from what quantisation took away from the weights.",
    knobs=(sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(1e-4, 3e-3, 5e-4),
    route="inject",
    peft_type="LORA",
    merges=False,
    config=config,
    quantised_only=True,
)
