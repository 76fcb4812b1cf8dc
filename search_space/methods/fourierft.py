"""FourierFT: an update that is the inverse Fourier transform of a few trained coefficients (Gao et al. 2024)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.divisors import require_at_most
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's FourierFTConfig."""
    require_at_most(part, "n_frequency", [site.in_features * site.out_features for site in targets.sites])
    return {"n_frequency": part["n_frequency"], "scaling": part["scaling"], "target_modules": targets.names}


METHOD = Method(
    name="fourierft",
    title="FourierFT",
    family="reparameterized",
    paper="Gao et al. 2024, arXiv:2405.03003",
    summary="Learns a few spectral coefficients of the update.",
    knobs=(
        sizes("n_frequency", (50, 100, 200, 500, 1000), 200, "number of trained coefficients in each matrix"),
        sizes("scaling", (50, 100, 150, 300), 150, "factor on the update", shapes=False),
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
    learning_rate=LogRange(0.01, 0.2, 0.05),
    route="inject",
    peft_type="FOURIERFT",
    merges=True,
    config=config,
)
