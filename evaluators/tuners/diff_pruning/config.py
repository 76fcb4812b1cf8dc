"""Configuration of diff pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig, require_positive
from search_space.errors import CandidateError


@dataclass
class DiffPruningConfig(WrappingConfig):
    """Configuration of `DiffPruningModel`.

    Attributes:
        sparsity_penalty: Weight λ of the expected number of nonzero changes in the loss.
        structured: Whether each target has a gate of its own besides those of its weights.
        start: Value of every gate's parameter at the start; 5 keeps nearly all open.
        lower: Lower end of the stretched interval of a gate, below 0.
        upper: Upper end of the stretched interval of a gate, above 1.
    """

    METHOD: ClassVar[str] = "diff_pruning"

    sparsity_penalty: float = 1.25e-7
    structured: bool = True
    start: float = 5.0
    lower: float = -1.5
    upper: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sparsity_penalty >= 0:
            raise CandidateError(f"{self.METHOD}: sparsity_penalty must be 0 or above, not {self.sparsity_penalty!r}")
        require_positive(self.METHOD, start=self.start)
        if not self.lower < 0 < 1 < self.upper:
            raise CandidateError(
                f"{self.METHOD}: lower must be below 0 and upper above 1, not {self.lower!r} and {self.upper!r}"
            )
