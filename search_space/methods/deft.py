"""DEFT: a subspace of W is projected out and replaced, (I - P) W + Q R (NeurIPS 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, flag, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's DeftConfig."""
    return {"r": part["r"], "para": part["para"], "target_modules": targets.names}


METHOD = Method(
    name="deft",
    title="DEFT",
    family="reparameterized",
    paper="NeurIPS 2025, https://proceedings.neurips.cc/paper_files/paper/2025/hash/93a34a7138bdad95e874018d5f491cc6-Abstract-Conference.html",
    summary="Replaces a low-rank subspace of weight matrices by learned content.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        flag("para", "only take the subspace out, inject nothing (PaRa)"),
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
    learning_rate=LogRange(0.0005, 0.01, 0.002),
    route="inject",
    peft_type="DEFT",
    merges=True,
    config=config,
)
