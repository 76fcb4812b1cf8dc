"""MTL-LoRA: a low-rank update whose matrices all tasks share, with a small one for each task between them."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of MtlLoraConfig; the temperature is the authors' 0.1."""
    return {
        "r": part["r"],
        "alpha": part["alpha"],
        "n_up": part["n_up"],
        "n_tasks": targets.anatomy.tasks,
        "target_modules": targets.names,
    }


METHOD = Method(
    name="mtl_lora",
    title="MTL-LoRA",
    family="multi-task",
    paper="Yang et al. 2024, arXiv:2410.09437",
    summary="Adds a low-rank matrix that all tasks share, turned and mixed by small matrices of each task.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale", shapes=False),
        sizes("n_up", (1, 2, 3, 4), 3, "up-projections that tasks mix"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
    ),
    learning_rate=LogRange(5e-4, 8e-3, 2e-3),
    route="inject",
    peft_type="MTL_LORA",
    merges=False,
    config=config,
    several_tasks=True,
)
