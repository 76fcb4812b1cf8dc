"""Polytropon: an inventory of low-rank skills, and for each task weights over them (Ponti et al. 2022)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PolyConfig."""
    require_divisor(part, "n_splits", [width for one in targets.sites for width in (one.in_features, one.out_features)])
    return {
        "r": part["r"],
        "n_skills": part["n_skills"],
        "n_splits": part["n_splits"],
        "n_tasks": targets.anatomy.tasks,
        "target_modules": targets.names,
    }


METHOD = Method(
    name="poly",
    title="Polytropon",
    family="multi-task",
    paper="Ponti, Sordoni, Bengio & Reddy 2022, arXiv:2202.13914; several heads: Caccia et al. 2023, arXiv:2211.03831",
    summary="Adds a mix of low-rank matrices that all tasks share, with weights of each task's own.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16), 4, "rank of each skill"),
        sizes("n_skills", (2, 4, 8), 4, "low-rank matrices in the inventory"),
        sizes("n_splits", (1, 2, 4), 1, "parts of a matrix with weights of their own; it divides both widths"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear",),
    ),
    learning_rate=LogRange(1e-3, 2e-2, 5e-3),
    route="inject",
    peft_type="POLY",
    merges=False,
    config=config,
    several_tasks=True,
)
