"""Prefix tuning: trained keys and values before those of every layer, or of some (Li & Liang 2021, section 4)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.errors import UnsupportedError
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's PrefixTuningConfig; on some layers it holds the prefixes of these alone.

    Where lengths differ it has the longest, and what the others lack is cut off later.

    Raises:
        UnsupportedError: A network is to make prefixes of several lengths.
    """
    length = part["num_virtual_tokens"]
    longest = max(length) if isinstance(length, tuple) else length
    some = len(targets.layers) < targets.anatomy.n_layers or isinstance(length, tuple)
    layers = {"num_layers": len(targets.layers)} if some else {}
    width = dict(part.knobs).get("encoder_hidden_size", 0)
    if width and isinstance(length, tuple):
        raise UnsupportedError(f"{part.method}: a network (encoder_hidden_size) makes prefixes of one length; give one")
    network = {"encoder_hidden_size": width} if width else {}
    return {"num_virtual_tokens": longest, "prefix_projection": bool(width), **network, **layers}


METHOD = Method(
    name="prefix_tuning",
    title="Prefix tuning",
    family="additive",
    paper="Li & Liang 2021, arXiv:2101.00190",
    summary="Puts trained keys and values before those of a layer: of every one, or of some.",
    knobs=(
        sizes("num_virtual_tokens", (4, 8, 16, 32), 16, "length of the prefix"),
        sizes(
            "encoder_hidden_size",
            (0,),
            0,
            "width of a network that makes the prefix in training and is left out after it, such as 512; 0 for none",
            low=0,
            per_layer=False,
        ),
    ),
    placement=PlacementRule(default=Placement(), kinds=()),
    learning_rate=LogRange(3e-3, 6e-2, 1e-2),
    route="prompt",
    peft_type="PREFIX_TUNING",
    merges=False,
    config=config,
)
