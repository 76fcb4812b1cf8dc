"""OSF: the smaller singular directions of W are trained, orthogonal to the larger ones (Nayak et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import whole
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's OSFConfig."""
    trained = whole(part, "trained_rank")
    kept = {site.name: max(1, min(site.in_features, site.out_features) - trained) for site in targets.sites}
    return {"effective_rank": 1, "rank_pattern": kept, "target_modules": targets.names}


METHOD = Method(
    name="osf",
    title="OSF",
    family="reparameterized",
    paper="Nayak et al. 2025, arXiv:2504.07097",
    summary="Trains the smaller singular directions of weight matrices and keeps the larger ones.",
    knobs=(sizes("trained_rank", (4, 8, 16, 32, 64), 16, "number of singular directions that are trained"),),
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
    learning_rate=LogRange(0.0001, 0.003, 0.0005),
    route="inject",
    peft_type="OSF",
    merges=True,
    config=config,
)
