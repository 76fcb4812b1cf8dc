"""Fixed architectures beside the table: what people use as it is, each with the same number of learning rates.

Each is tried at five learning rates, evenly spaced by logarithm over the range that a search would draw from. Where two
methods have rates of their own, both go up together. The head's own rate is what there is to try of the head alone;
everywhere else it is the one that all candidates have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from search_space.candidate import Candidate
from search_space.knobs import LogRange
from search_space.notation import parse
from search_space.registry import method

TRIES = 5
BASELINES: Mapping[str, str] = {
    "LoRA r8": "lora(r=8)",
    "serial adapter 16": "serial_adapter(r=16)",
    "MAM": "prefix_tuning(num_virtual_tokens=32) + parallel_adapter(r=64)",
    "UniPELT": "unipelt + gated_prefix",
    "BitFit": "bitfit",
    "IA3": "ia3",
    "head only": "head",
    "full fine-tuning": "full",
}
"""By the name that reports use, in the notation."""

_HEAD = LogRange(1e-3, 1e-1, 1e-2)


def baselines() -> Iterator[tuple[str, Candidate]]:
    """Yield every try of every baseline, with the baseline's name."""
    for name, text in BASELINES.items():
        for at in range(TRIES):
            yield name, _tried(parse(text), at)


def name_of(candidate: Candidate) -> str:
    """Return the name of the baseline that a candidate is a try of. KeyError when it is none."""
    return _NAMES[candidate.architecture_sha256]


def _tried(candidate: Candidate, at: int) -> Candidate:
    rates = tuple(_rate(method(part.method).learning_rate, at) for part in candidate.parts)
    if candidate.method == "head":
        return replace(candidate, recipe=replace(candidate.recipe, head_learning_rate=_rate(_HEAD, at)))
    return replace(candidate, recipe=replace(candidate.recipe, learning_rates=rates))


def _rate(bounds: LogRange, at: int) -> float:
    """Return one of the rates, to three digits as searches draw them."""
    return float(f"{bounds.low * (bounds.high / bounds.low) ** (at / (TRIES - 1)):.3g}")


_NAMES = {parse(text).architecture_sha256: name for name, text in BASELINES.items()}
