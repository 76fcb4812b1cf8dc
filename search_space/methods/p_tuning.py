"""P-tuning: trained tokens before the input, made by a small network (Liu et al. 2021)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PromptEncoderConfig."""
    return {"num_virtual_tokens": part["num_virtual_tokens"], "encoder_hidden_size": part["encoder_hidden_size"]}


METHOD = Method(
    name="p_tuning",
    title="P-tuning",
    family="additive",
    paper="Liu et al. 2021, arXiv:2103.10385",
    summary="Puts trained tokens, made by a small network, before the input.",
    knobs=(
        sizes("num_virtual_tokens", (4, 8, 16, 32), 16, "number of tokens"),
        sizes("encoder_hidden_size", (32, 64, 128), 64, "width of the network"),
    ),
    placement=PlacementRule(default=Placement(), layers=False, kinds=()),
    learning_rate=LogRange(0.001, 0.02, 0.005),
    route="prompt",
    peft_type="P_TUNING",
    merges=False,
    config=config,
)
