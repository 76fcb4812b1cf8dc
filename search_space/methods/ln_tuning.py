"""LN-tuning: train the layer norms only (Zhao et al. 2023)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LNTuningConfig."""
    return {"target_modules": targets.names}


METHOD = Method(
    name="ln_tuning",
    title="LN-tuning",
    family="selective",
    paper="Zhao et al. 2023, arXiv:2312.11420",
    summary="Trains the gains and biases of the layer norms.",
    knobs=(),
    placement=PlacementRule(default=Placement.parse("norm"), projections=("norm",), kinds=("norm",)),
    learning_rate=LogRange(1e-3, 2e-2, 5e-3),
    route="inject",
    peft_type="LN_TUNING",
    merges=True,
    config=config,
)
