"""(IA)^3: learned scales of keys, values and the feed-forward's inner activations (Liu et al. 2022, section 3.3)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's IA3Config: `mlp.down` is scaled at its input, the others at their output."""
    return {"target_modules": targets.names, "feedforward_modules": targets.names_of("mlp.down")}


METHOD = Method(
    name="ia3",
    title="(IA)^3",
    family="additive",
    paper="Liu et al. 2022, arXiv:2205.05638",
    summary="Scales inner activations by learned vectors.",
    knobs=(),
    placement=PlacementRule(
        default=Placement.parse("attention.key,attention.value,mlp.down"),
        projections=("attention.key,attention.value,mlp.down", "attention.key,attention.value", "mlp.down", "linear"),
    ),
    learning_rate=LogRange(2e-3, 5e-2, 1e-2),
    route="inject",
    peft_type="IA3",
    merges=True,
    config=config,
)
