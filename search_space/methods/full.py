"""Full fine-tuning: every parameter of the backbone, or of its top layers."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return nothing: peft has no part in it."""
    return {}


METHOD = Method(
    name="full",
    title="Full fine-tuning",
    family="selective",
    paper="Devlin et al. 2019, arXiv:1810.04805; some layers: Lee, Tang & Lin 2019, arXiv:1911.03090",
    summary="Trains every parameter of the backbone, or of the layers that it is put on.",
    knobs=(),
    placement=PlacementRule(default=Placement(), kinds=()),
    learning_rate=LogRange(1e-5, 5e-4, 1e-4),
    route="full",
    peft_type="",
    merges=True,
    config=config,
)
