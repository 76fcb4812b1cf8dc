"""Serial bottleneck adapter: h + s W_up f(W_down h) after a module (Houlsby et al. 2019; Pfeiffer et al. 2021)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our SerialAdapterConfig."""
    return {"r": part["r"], "activation": part["activation"], "target_modules": targets.names}


METHOD = Method(
    name="serial_adapter",
    title="Serial bottleneck adapter",
    family="additive",
    paper="Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247",
    summary="Puts a small two-layer network behind the attention and the feed-forward block.",
    knobs=(
        sizes("r", (4, 8, 16, 32, 64), 16, "width of the bottleneck"),
        words("activation", ("relu", "gelu", "silu"), "non-linearity"),
    ),
    placement=PlacementRule(
        default=Placement.parse("mlp.down"),
        projections=("mlp.down", "attention.output", "attention.output,mlp.down"),
    ),
    learning_rate=LogRange(5e-4, 8e-3, 2e-3),
    route="inject",
    peft_type="SERIAL_ADAPTER",
    merges=False,
    config=config,
)
