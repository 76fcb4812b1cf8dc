"""LLaMA-Adapter: trained tokens that the top layers attend to, behind a gate of zero (Zhang et al. 2023)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import whole
from search_space.errors import UnsupportedError
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets

CARRIED = ("llama", "mistral", "gpt2")
"""Architectures whose attention peft knows how to extend."""


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's AdaptionPromptConfig."""
    layers = whole(part, "adapter_layers")
    if targets.anatomy.architecture not in CARRIED:
        raise UnsupportedError(
            f"adaption_prompt knows {', '.join(CARRIED)} and not {targets.anatomy.architecture}; "
            "prefix_tuning is near to it"
        )
    if layers > targets.anatomy.n_layers:
        raise UnsupportedError(f"adaption_prompt: the model has {targets.anatomy.n_layers} layers, not {layers}")
    return {"adapter_len": part["adapter_len"], "adapter_layers": layers}


METHOD = Method(
    name="adaption_prompt",
    title="LLaMA-Adapter",
    family="additive",
    paper="Zhang et al. 2023, arXiv:2303.16199",
    summary="Lets the top layers attend to trained tokens, each through a gate that starts closed.",
    knobs=(
        sizes("adapter_len", (4, 8, 16, 32), 16, "number of tokens"),
        sizes("adapter_layers", (1, 2, 4, 8, 16), 2, "number of top layers"),
    ),
    placement=PlacementRule(default=Placement(), layers=False, kinds=()),
    learning_rate=LogRange(1e-3, 5e-2, 9e-3),
    route="inject",
    peft_type="ADAPTION_PROMPT",
    merges=False,
    config=config,
)
