"""Configuration of sparse masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig, require_one_of, require_positive
from search_space.errors import CandidateError

CRITERIA = ("fisher", "magnitude", "random")


@dataclass
class MaskConfig(WrappingConfig):
    """Configuration of `MaskModel`.

    Attributes:
        density: Fraction of the targets' weights that is trained, above 0 and at most 1.
        criterion: Which weights: the largest by absolute value in each target (`magnitude`), any (`random`), or those
            with the largest diagonal of the Fisher information over all targets (`fisher`). The last needs data:
            nothing is trained before `select_by_scores` was called.
        counts: How many weights each target has in the mask, by full module name; filled in by the selection.
    """

    METHOD: ClassVar[str] = "mask"

    density: float = 0.005
    criterion: str = "magnitude"
    counts: dict[str, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, density=self.density)
        if self.density > 1:
            raise CandidateError(f"{self.METHOD}: density must be at most 1, not {self.density!r}")
        require_one_of(self.METHOD, "criterion", self.criterion, CRITERIA)

    @property
    def awaits_selection(self) -> bool:
        """Whether the mask depends on data that it has not seen yet."""
        return self.criterion == "fisher" and self.counts is None

    def count(self, name: str, weights: int) -> int:
        """Return how many of a target's weights are in the mask; at least one, unless a selection said otherwise."""
        if self.counts is not None:
            return self.counts[name]
        return max(1, round(self.density * weights))
