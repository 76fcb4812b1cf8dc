"""Prompt tuning: trained tokens before the input (Lester, Al-Rfou & Constant 2021)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PromptTuningConfig."""
    return {"num_virtual_tokens": part["num_virtual_tokens"]}


METHOD = Method(
    name="prompt_tuning",
    title="Prompt tuning",
    family="additive",
    paper="Lester, Al-Rfou & Constant 2021, arXiv:2104.08691",
    summary="Puts trained tokens before the input.",
    knobs=(sizes("num_virtual_tokens", (4, 8, 16, 32, 64), 16, "number of tokens"),),
    placement=PlacementRule(default=Placement(), layers=False, kinds=()),
    learning_rate=LogRange(0.005, 0.3, 0.03),
    route="prompt",
    peft_type="PROMPT_TUNING",
    merges=False,
    config=config,
)
