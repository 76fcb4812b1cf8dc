"""WaveFT: an update that is the inverse wavelet transform of a few trained coefficients (Bilican et al. 2025)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_at_most
from search_space.knobs import LogRange, sizes, words
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's WaveFTConfig."""
    require_at_most(part, "n_frequency", [site.in_features * site.out_features for site in targets.sites])
    return {
        "n_frequency": part["n_frequency"],
        "scaling": part["scaling"],
        "wavelet_family": part["wavelet_family"],
        "target_modules": targets.names,
    }


METHOD = Method(
    name="waveft",
    title="WaveFT",
    family="reparameterized",
    paper="Bilican et al. 2025, arXiv:2505.12532",
    summary="Learns a few wavelet coefficients of the update.",
    knobs=(
        sizes("n_frequency", (50, 100, 200, 500, 1000), 200, "number of trained coefficients in each matrix"),
        sizes("scaling", (5, 10, 25, 50), 25, "factor on the update", shapes=False),
        words("wavelet_family", ("db1", "db2", "sym3"), "wavelets"),
    ),
    placement=PlacementRule(
        default=Placement.parse("attention.query,attention.value"),
        projections=(
            "attention.query,attention.value",
            "attention",
            "mlp",
            "linear",
        ),
    ),
    learning_rate=LogRange(0.002, 0.1, 0.01),
    route="inject",
    peft_type="WAVEFT",
    merges=True,
    config=config,
)
