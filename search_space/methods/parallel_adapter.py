"""Parallel bottleneck adapter: h + s W_up f(W_down x) beside a module that maps x to h (He et al. 2022, table 1)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import whole
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our ParallelAdapterConfig."""
    return {
        "r": part["r"],
        "activation": part["activation"],
        "scaling": float(whole(part, "scaling")),
        "target_modules": targets.names,
    }


METHOD = Method(
    name="parallel_adapter",
    title="Parallel adapter",
    family="additive",
    paper="He et al. 2022, arXiv:2110.04366",
    summary="Puts a small two-layer network beside a module; scaled by 4 as in the paper.",
    knobs=(
        sizes("r", (4, 8, 16, 32, 64), 16, "width of the bottleneck"),
        words("activation", ("relu", "gelu", "silu"), "non-linearity"),
        sizes("scaling", (1, 2, 4), 4, "factor on its output: 4 is the scaled parallel adapter", shapes=False),
    ),
    placement=PlacementRule(
        default=Placement.parse("mlp.down"),
        projections=(
            "mlp.down",
            "attention.output",
            "attention.output,mlp.down",
        ),
    ),
    learning_rate=LogRange(0.0002, 0.005, 0.001),
    route="inject",
    peft_type="PARALLEL_ADAPTER",
    merges=False,
    config=config,
)
