"""Sparse masks: a fixed small share of the weights is trained, chosen by Fisher information (Sung et al. 2021)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, shares, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our MaskConfig."""
    return {"density": part["density"], "criterion": part["criterion"], "target_modules": targets.names}


METHOD = Method(
    name="mask",
    title="Sparse mask",
    family="selective",
    paper="Sung, Nair & Raffel 2021, arXiv:2111.09839",
    summary="Trains a fixed sparse set of weights.",
    knobs=(
        shares(
            "density",
            (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
            0.005,
            "share of the weights that is trained",
            (1e-6, 1.0),
        ),
        words(
            "criterion",
            ("fisher", "magnitude", "random"),
            "how they are chosen; fisher looks at training data (FISH masks)",
            shapes=False,
        ),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
    ),
    learning_rate=LogRange(0.0005, 0.01, 0.002),
    route="inject",
    peft_type="MASK",
    merges=True,
    config=config,
)
