"""UniPELT: LoRAs and adapters with gates that open where they help (Mao et al. 2022)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our UniPeltConfig."""
    return {
        "lora_r": part["lora_r"],
        "adapter_r": part["adapter_r"],
        "gate": part["gate"],
        "adapter_modules": targets.names_of("mlp.down"),
        "target_modules": targets.names,
    }


METHOD = Method(
    name="unipelt",
    title="UniPELT",
    family="unified",
    paper="Mao et al. 2022, arXiv:2110.07577",
    summary="LoRAs in attention and adapters behind the feed-forward block, each with a learned gate.",
    knobs=(
        sizes("lora_r", (4, 8, 16), 8, "rank of the LoRAs"),
        sizes("adapter_r", (8, 16, 32, 48), 16, "width of the adapters"),
        words("gate", ("token", "sequence"), "whether a gate opens for each token or for the whole text"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value,mlp.down"),
        projections=(
            "attention.query,attention.value,mlp.down",
            "attention.query,attention.value",
            "mlp.down",
        ),
    ),
    learning_rate=LogRange(0.0005, 0.008, 0.002),
    route="inject",
    peft_type="UNIPELT",
    merges=False,
    config=config,
)
