"""Cartridges: a trained cache of keys and values, its first tokens frozen (Eyuboglu et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's CartridgeConfig."""
    return {"num_virtual_tokens": part["num_virtual_tokens"], "num_frozen_tokens": part["num_frozen_tokens"]}


METHOD = Method(
    name="cartridge",
    title="Cartridge",
    family="additive",
    paper="Eyuboglu et al. 2025, arXiv:2506.06266",
    summary="Trains a cache of keys and values directly, with its first tokens frozen.",
    knobs=(
        sizes("num_virtual_tokens", (4, 8, 16, 32), 16, "length of the cache"),
        sizes("num_frozen_tokens", (0, 1), 1, "tokens at its start that stay as they are", low=0),
    ),
    placement=PlacementRule(default=Placement(), layers=False, kinds=()),
    learning_rate=LogRange(0.003, 0.06, 0.01),
    route="prompt",
    peft_type="CARTRIDGE",
    merges=False,
    config=config,
)
