"""LoRA: a low-rank update beside a frozen matrix, W x + (alpha / r) B A x (Hu et al. 2022, equation 3).

On a table of embeddings x is the token's unit vector: the update of its row is (alpha / r) B A[:, token].
"""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, flag, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's LoraConfig."""
    return {
        "r": part["r"],
        "lora_alpha": part["alpha"],
        "use_rslora": part["use_rslora"],
        "use_dora": part["use_dora"],
        "lora_dropout": 0.0,
        "target_modules": targets.names,
    }


METHOD = Method(
    name="lora",
    title="LoRA",
    family="reparameterized",
    paper="Hu et al. 2022, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023; DoRA: Liu et al. 2024",
    summary="Adds a trainable low-rank matrix to frozen weight matrices.",
    knobs=(
        sizes("r", (1, 2, 4, 8, 16, 32, 64), 8, "rank"),
        sizes("alpha", (8, 16, 32, 64), 16, "numerator of the scale", shapes=False),
        flag("use_rslora", "scale by alpha / sqrt(r) (rsLoRA)", shapes=False),
        flag("use_dora", "train the magnitude of each column apart (DoRA)"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=("attention.query,attention.value", "attention", "mlp", "linear"),
        kinds=("linear", "conv1d", "embedding"),
    ),
    learning_rate=LogRange(5e-4, 8e-3, 2e-3),
    route="inject",
    peft_type="LORA",
    merges=True,
    config=config,
)
