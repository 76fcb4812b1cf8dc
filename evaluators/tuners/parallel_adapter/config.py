"""Configuration of parallel bottleneck adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from evaluators.tuners.bottleneck import ACTIVATIONS
from evaluators.tuners.wrapping import WrappingConfig, require_one_of, require_positive
from search_space.errors import PlacementError


@dataclass
class ParallelAdapterConfig(WrappingConfig):
    """Configuration of `ParallelAdapterModel`.

    Attributes:
        r: Width of the bottleneck.
        activation: Nonlinearity inside the bottleneck, one of `ACTIVATIONS`.
        scaling: Factor s on the adapter's output. The paper's scaled parallel adapter has 4.
        input_modules: For some targets, the full name of another module whose input the adapter reads, instead of the
            target's own. A feed-forward block that is no module of its own, as in BERT, is adapted so: the target is
            its second linear module, the input that of its first.
    """

    METHOD: ClassVar[str] = "parallel_adapter"

    r: int = 8
    activation: str = "relu"
    scaling: float = 1.0
    input_modules: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, r=self.r, scaling=self.scaling)
        require_one_of(self.METHOD, "activation", self.activation, ACTIVATIONS)
        strangers = sorted(self.input_modules.keys() - set(self.target_modules))
        if strangers:
            raise PlacementError(
                f"{self.METHOD}: input_modules names {strangers[0]!r}, which is not among the target modules"
            )
