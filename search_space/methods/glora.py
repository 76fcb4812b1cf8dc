"""GLoRA: weights, activations and biases scaled and shifted, in one form (Chavan et al. 2023, equation 10)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's GloraConfig."""
    return {
        "r": part["r"],
        "config_A_B": part["config_A_B"],
        "config_C": part["config_C"],
        "config_D_E": part["config_D_E"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="glora",
    title="GLoRA",
    family="reparameterized",
    paper="Chavan et al. 2023, arXiv:2306.07967",
    summary="Scales and shifts weights, activations and biases with small supports.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        words("config_A_B", ("lora", "vector", "constant", "none"), "supports on the weights"),
        words("config_C", ("lora", "vector", "none"), "support on the activations"),
        words("config_D_E", ("constant", "vector", "none"), "supports on the bias"),
    ),
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
    learning_rate=LogRange(0.0005, 0.008, 0.002),
    route="inject",
    peft_type="GLORA",
    merges=True,
    config=config,
)
