"""Ladder side-tuning: a narrow network beside the backbone that reads its layers (Sung, Cho & Bansal 2022)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our LstConfig."""
    return {
        "reduction": part["reduction"],
        "side_block": part["side_block"],
        "heads": part["heads"],
        "target_modules": [block.name for block in targets.anatomy.blocks_in(part.placement.layers)],
    }


METHOD = Method(
    name="lst",
    title="Ladder side-tuning",
    family="additive",
    paper="Sung, Cho & Bansal 2022, arXiv:2206.06522",
    summary="Trains a narrow network beside the backbone, which needs no gradients itself.",
    knobs=(
        sizes("reduction", (4, 8, 16, 32), 8, "width of the backbone divided by that of the side network"),
        words("side_block", ("transformer", "feed_forward"), "what stands beside each layer"),
        sizes("heads", (1, 2, 4), 4, "attention heads of a side block; they divide its width"),
    ),
    placement=PlacementRule(default=Placement(), kinds=()),
    learning_rate=LogRange(0.0005, 0.008, 0.002),
    route="inject",
    peft_type="LST",
    merges=False,
    config=config,
)
