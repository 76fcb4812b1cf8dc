"""SHiRA: a sparse change of high rank at random places, as large as a LoRA (Bhardwaj et al. 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import whole
from search_space.errors import UnsupportedError
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's ShiraConfig."""
    rank = whole(part, "r")
    for site in targets.sites:
        if rank * (site.in_features + site.out_features) > site.in_features * site.out_features:
            most = site.in_features * site.out_features // (site.in_features + site.out_features)
            raise UnsupportedError(f"shira: r = {rank} is more than {site.name} has weights for; at most {most} fits")
    return {"r": rank, "random_seed": 0, "target_modules": targets.names}


METHOD = Method(
    name="shira",
    title="SHiRA",
    family="selective",
    paper="Bhardwaj et al. 2024, arXiv:2406.13175",
    summary="Trains a random sparse set of weights, as many in each module as a LoRA of rank r has.",
    knobs=(sizes("r", (1, 2, 4, 8, 16, 32), 8, "rank of the LoRA that has as many parameters"),),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(5e-4, 1e-2, 2e-3),
    route="inject",
    peft_type="SHIRA",
    merges=True,
    config=config,
)
