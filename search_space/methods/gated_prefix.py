"""Gated prefix: prefix tuning with a gate for each layer, UniPELT's third part (Mao et al. 2022, section 3.3)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.methods import prefix_tuning
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PrefixTuningConfig."""
    return prefix_tuning.config(part, targets)


METHOD = Method(
    name="gated_prefix",
    title="Gated prefix tuning",
    family="unified",
    paper="Mao et al. 2022, arXiv:2110.07577",
    summary="Prefix tuning in which each layer's input decides how much of its prefix counts.",
    knobs=(sizes("num_virtual_tokens", (4, 8, 16, 32), 8, "length of the prefix"),),
    placement=PlacementRule(default=Placement(), kinds=()),
    learning_rate=LogRange(3e-3, 6e-2, 1e-2),
    route="prompt",
    peft_type="PREFIX_TUNING",
    merges=False,
    config=config,
    gated=True,
)
