"""Diff pruning: a dense change of the weights whose hard concrete gates are trained to close (Guo et al. 2021)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import Knob, LogRange, flag, shares
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our DiffPruningConfig."""
    return {
        "sparsity_penalty": part["sparsity_penalty"],
        "structured": not part["unstructured"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="diff_pruning",
    title="Diff pruning",
    family="selective",
    paper="Guo, Rush & Kim 2021, arXiv:2012.07463",
    summary="Trains a change of every weight and a penalty on how many of them are not zero.",
    knobs=(
        Knob(
            "sparsity_penalty",
            (1e-08, 1.25e-07, 1e-06, 1e-05),
            1.25e-07,
            ordered=True,
            text="weight of the expected number of changes in the loss",
            shapes=False,
        ),
        flag("unstructured", "no gate for each module as a whole, only for its weights"),
        shares(
            "density",
            (0.005, 0.01, 0.05, 0.1, 1.0),
            1.0,
            "share of the weights whose change is kept, from the last fifth of training on; all of them at 1",
            (1e-6, 1.0),
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
    learning_rate=LogRange(1e-05, 0.001, 0.0002),
    route="inject",
    peft_type="DIFF_PRUNING",
    merges=True,
    config=config,
)
