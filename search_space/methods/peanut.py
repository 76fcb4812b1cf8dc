"""PEANuT: the update is a small network of the weight itself, f(W A) B (Zhong et al. 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PeanutConfig."""
    return {"r": part["r"], "depth": part["depth"], "act_fn": part["act_fn"], "target_modules": targets.names}


METHOD = Method(
    name="peanut",
    title="PEANuT",
    family="reparameterized",
    paper="Zhong et al. 2024, arXiv:2410.01870",
    summary="Computes the update of a weight matrix by a small network from the matrix itself.",
    knobs=(
        sizes("r", (2, 4, 8, 16, 32), 8, "width of the network"),
        sizes("depth", (0, 1, 2), 0, "number of hidden layers", low=0),
        words("act_fn", ("relu", "gelu", "silu", "tanh"), "non-linearity"),
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
    peft_type="PEANUT",
    merges=True,
    config=config,
)
