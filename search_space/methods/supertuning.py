"""Super-Tuning: the weights of largest magnitude are trained, beside a LoRA if wanted (arXiv:2607.09287)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, flag, shares
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's SupertuningConfig."""
    return {"sparsity": part["sparsity"], "select_top": not part["smallest"], "target_modules": targets.names}


METHOD = Method(
    name="supertuning",
    title="Super-Tuning",
    family="selective",
    paper="arXiv:2607.09287",
    summary="Trains the largest weights.",
    knobs=(
        shares("sparsity", (0.999, 0.995, 0.99, 0.98, 0.95), 0.99, "share of weights that stay frozen", (0.5, 0.9999)),
        flag("smallest", "train the smallest weights instead", shapes=False),
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
    learning_rate=LogRange(0.0005, 0.01, 0.002),
    route="inject",
    peft_type="SUPERTUNING",
    merges=True,
    config=config,
)
