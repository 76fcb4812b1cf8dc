"""Architectures that papers settled on, as candidates to begin a search with."""

from __future__ import annotations

from collections.abc import Mapping

from search_space.candidate import Candidate
from search_space.notation import parse

LORA: Mapping[str, str] = {
    "LoRA on query and value": "lora@attention.query,attention.value",
    "LoRA on attention": "lora@attention",
    "LoRA on the feed-forward block": "lora@mlp",
    "LoRA on all linear layers": "lora@linear",
}
"""Plain LoRA on each set of projections that people use."""

PUBLISHED: Mapping[str, str] = {
    "LoRA, r 8 (Hu et al. 2022)": "lora(r=8)@attention.query,attention.value",
    "LoRA on all linear layers (Dettmers et al. 2023)": "lora(r=16)@linear",
    "adapters after both blocks (Houlsby et al. 2019)": "serial_adapter(r=64)@attention.output,mlp.down",
    "adapters after the feed-forward block (Pfeiffer et al. 2021)": "serial_adapter(r=16)@mlp.down",
    "BitFit (Ben Zaken et al. 2022)": "bitfit",
    "IA3 (Liu et al. 2022)": "ia3",
    "prefixes and scaled parallel adapters: MAM (He et al. 2022)": (
        "prefix_tuning(num_virtual_tokens=32) + parallel_adapter(r=64)"
    ),
    "gated LoRAs, adapters and prefixes: UniPELT (Mao et al. 2022)": "unipelt + gated_prefix",
}
"""What papers recommend, at their sizes."""


def lora() -> dict[str, Candidate]:
    """Return plain LoRA on each set of projections, by its name."""
    return {name: parse(text) for name, text in LORA.items()}


def published() -> dict[str, Candidate]:
    """Return what papers recommend, by a name that gives the paper; learning rates are the methods' own."""
    return {name: parse(text) for name, text in PUBLISHED.items()}
