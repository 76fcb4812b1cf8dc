"""AdaMSS: rank-one updates within clusters of the rows of a weight, as peft implements it (0.21)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_at_most
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets

ONE = 1
"""Rank within a cluster. With one the size follows from the shapes, whatever clusters are found."""


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's AdamssConfig."""
    require_at_most(part, "r", (min(site.in_features, site.out_features) for site in targets.sites))
    return {
        "r": part["r"],
        "num_subspaces": part["num_subspaces"],
        "subspace_rank": ONE,
        "target_modules": targets.names,
    }


METHOD = Method(
    name="adamss",
    title="AdaMSS",
    family="reparameterized",
    paper="AdaMSS in peft 0.21, https://huggingface.co/docs/peft/package_reference/adamss",
    summary="Clusters the rows of weight matrices and trains an update of rank one for each cluster.",
    knobs=(
        sizes("r", (8, 16, 32, 64, 128), 32, "singular directions of the weight that are kept"),
        sizes("num_subspaces", (2, 4, 8, 16), 4, "clusters of rows"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(1e-3, 3e-2, 5e-3),
    route="inject",
    peft_type="ADAMSS",
    merges=True,
    config=config,
)
