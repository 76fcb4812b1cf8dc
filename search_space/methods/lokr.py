"""LoKr: an update that is a Kronecker product of a small and a low-rank matrix (Yeh et al. 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, flag, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets

FACTORS = {"auto": -1, "two": 2, "four": 4, "eight": 8, "sixteen": 16}
"""The words of the knob `decompose_factor`, as numbers: they have no useful order, since each divides differently."""


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoKrConfig."""
    return {
        "r": part["r"],
        "alpha": part["alpha"],
        "decompose_factor": FACTORS[str(part["decompose_factor"])],
        "decompose_both": part["decompose_both"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="lokr",
    title="LoKr",
    family="reparameterized",
    paper="Yeh et al. 2024, arXiv:2309.14859",
    summary="Adds a Kronecker product of small matrices to frozen weight matrices.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32), 8, "rank of the second factor"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale", shapes=False),
        words(
            "decompose_factor",
            ("auto", "two", "four", "eight", "sixteen"),
            "size of the first factor; auto is near the square root",
        ),
        flag("decompose_both", "make the first factor low-rank as well"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
        kinds=("linear",),
    ),
    learning_rate=LogRange(0.0005, 0.01, 0.002),
    route="inject",
    peft_type="LOKR",
    merges=True,
    config=config,
)
