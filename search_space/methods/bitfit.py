"""BitFit: train bias terms only (Ben Zaken et al. 2022)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our BitFitConfig."""
    return {"target_modules": targets.names}


METHOD = Method(
    name="bitfit",
    title="BitFit",
    family="selective",
    paper="Ben Zaken, Goldberg & Ravfogel 2022, arXiv:2106.10199",
    summary="Trains the bias terms and nothing else.",
    knobs=(),
    placement=PlacementRule(
        default=Placement.parse("linear,norm"),
        projections=("linear,norm", "linear", "attention.query,mlp.up"),
        kinds=("linear", "conv1d", "norm"),
    ),
    learning_rate=LogRange(1e-3, 2e-2, 4e-3),
    route="inject",
    peft_type="BITFIT",
    merges=True,
    config=config,
)
