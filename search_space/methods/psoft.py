"""PSOFT: an orthogonal r x r transformation between the principal singular factors of W, B (R - I) A."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PsoftConfig."""
    return {
        "r": part["r"],
        "psoft_alpha": part["r"],
        "psoft_mag_a": part["magnitudes"] == "both",
        "psoft_mag_b": part["magnitudes"] == "both",
        "target_modules": targets.names,
    }


METHOD = Method(
    name="psoft",
    title="PSOFT",
    family="reparameterized",
    paper="Efficient Orthogonal Fine-Tuning with Principal Subspace Adaptation, https://openreview.net/forum?id=FSHrinMArK",
    summary="Rotates the principal subspace of weight matrices.",
    knobs=(
        sizes("r", (8, 16, 32, 64), 32, "dimension of the subspace"),
        words("magnitudes", ("both", "none"), "trained magnitudes on both sides of the rotation"),
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
    learning_rate=LogRange(0.0005, 0.01, 0.003),
    route="inject",
    peft_type="PSOFT",
    merges=True,
    config=config,
)
