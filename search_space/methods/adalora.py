"""AdaLoRA: an update like an SVD, P Λ Q, whose least important ranks are pruned in training (Zhang et al. 2023)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import whole
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets

UNTIL_TRAINING_SAYS = 1
"""peft wants a number of steps; the training hook gives the real one."""


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's AdaLoraConfig."""
    return {
        "target_r": part["target_r"],
        "init_r": -(-3 * whole(part, "target_r") // 2),
        "lora_alpha": part["alpha"],
        "total_step": UNTIL_TRAINING_SAYS,
        "target_modules": targets.names,
    }


METHOD = Method(
    name="adalora",
    title="AdaLoRA",
    family="reparameterized",
    paper="Zhang et al. 2023, arXiv:2303.10512",
    summary="Adds a low-rank update like an SVD and gives rank to the matrices that need it.",
    knobs=(
        sizes(
            "target_r",
            (1, 2, 4, 8, 16, 32),
            8,
            "mean rank at the end; training starts with half as much again",
            per_layer=False,
        ),
        sizes("alpha", (8, 16, 32, 64), 32, "numerator of the scale", shapes=False),
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
    learning_rate=LogRange(0.0005, 0.01, 0.003),
    route="inject",
    peft_type="ADALORA",
    merges=True,
    config=config,
)
