"""Configuration of serial bottleneck adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.bottleneck import ACTIVATIONS
from evaluators.tuners.wrapping import WrappingConfig, require_one_of, require_positive


@dataclass
class SerialAdapterConfig(WrappingConfig):
    """Configuration of `SerialAdapterModel`.

    Attributes:
        r: Width of the bottleneck.
        activation: Nonlinearity inside the bottleneck, one of `ACTIVATIONS`.
        scaling: Factor s on the adapter's output.
        layer_norm: Whether the adapter normalises its input first, with a scale and a shift of its own.
    """

    METHOD: ClassVar[str] = "serial_adapter"

    r: int = 8
    activation: str = "relu"
    scaling: float = 1.0
    layer_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, r=self.r, scaling=self.scaling)
        require_one_of(self.METHOD, "activation", self.activation, ACTIVATIONS)
