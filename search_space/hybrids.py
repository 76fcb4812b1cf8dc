"""Hybrids: those that have names, and which methods can share a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

from search_space.capability import why_not_together
from search_space.errors import UnsupportedError

NAMED: Mapping[str, str] = {
    "mam": "prefix_tuning + parallel_adapter",
    "unipelt_prefix": "unipelt + gated_prefix",
    "lora_bitfit": "lora + bitfit",
    "lora_ia3": "lora + ia3",
    "adalora_prefix": "adalora + prefix_tuning",
    "s4": "serial_adapter + prefix_tuning + bitfit + lora",
}
"""Hybrids that were published or are often asked for, in the notation.

MAM is of He et al. 2022 (arXiv:2110.04366): prefixes, and parallel adapters scaled by 4 beside the feed-forward block.
UniPELT is of Mao et al. 2022 (arXiv:2110.07577): LoRAs, adapters and prefixes, each with a gate. The four
of S4 are of Chen et al. 2023 (arXiv:2301.01821), which gives each group of layers a subset of them.
"""


def spelled_out(hybrid: str) -> str:
    """Return a named hybrid in the notation, and anything else as it is."""
    return NAMED.get(hybrid.strip(), hybrid)


def require_sharing(names: tuple[str, ...], overlap: Callable[[int, int], bool], architecture: str) -> None:
    """Refuse a hybrid of methods that cannot share a model.

    Args:
        names: Its methods, in the order in which they are attached.
        overlap: Whether two of them, by their places in the order, may be put on the same modules.
        architecture: The model's.

    Raises:
        UnsupportedError: Two of them cannot share; the message says why, and what would work.
    """
    for one, other in combinations(range(len(names)), 2):
        first, second = names[one], names[other]
        if reason := why_not_together(first, second, "disjoint", architecture):
            raise UnsupportedError(f"{_hybrid(names)}: {first} and {second} cannot share a model: {reason}")
        if (reason := why_not_together(first, second, "shared", architecture)) and overlap(one, other):
            raise UnsupportedError(
                f"{_hybrid(names)}: {first} and {second} cannot go on the same modules: {reason}; "
                "give them projections or layers that do not overlap"
                + (
                    ""
                    if why_not_together(second, first, "shared", architecture)
                    else f", or write {second} before {first}"
                )
            )


def _hybrid(names: tuple[str, ...]) -> str:
    return f"space.hybrids: {' + '.join(names)!r}"
