"""QA-LoRA: LoRA on inputs pooled within groups, s B A pool(x) (Xu et al. 2023, section 3.3)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_divisor
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of our QaLoraConfig."""
    require_divisor(part, "group_size", [site.in_features for site in targets.sites])
    return {
        "r": part["r"],
        "alpha": part["alpha"],
        "group_size": part["group_size"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="qa_lora",
    title="QA-LoRA",
    family="quantized",
    paper="Xu et al. 2023, arXiv:2309.14717",
    summary="LoRA that reads sums over groups of inputs, so that a group of quantised weights can take it up.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale"),
        sizes("group_size", (2, 4, 8, 16, 32, 64), 32, "inputs that are read as one; it divides the input width"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
    ),
    learning_rate=LogRange(5e-4, 8e-3, 2e-3),
    route="inject",
    peft_type="QA_LORA",
    merges=True,
    config=config,
)
