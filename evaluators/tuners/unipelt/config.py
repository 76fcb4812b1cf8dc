"""Configuration of UniPELT."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from evaluators.tuners.bottleneck import ACTIVATIONS
from evaluators.tuners.wrapping import WrappingConfig, require_one_of, require_positive
from search_space.errors import PlacementError

GATES = ("token", "sequence")


@dataclass
class UniPeltConfig(WrappingConfig):
    """Configuration of `UniPeltModel`.

    Attributes:
        adapter_modules: Those of the targets that get a gated adapter; the others get a gated LoRA.
        lora_r: Rank of the LoRAs.
        lora_alpha: Numerator of their scaling, alpha / r.
        adapter_r: Width of the adapters' bottlenecks.
        activation: Nonlinearity of the adapters, one of `ACTIVATIONS`.
        gate: Whether a gate opens for each token (`token`), or for the whole sequence by the mean over its tokens
            (`sequence`, as in the authors' program). The latter sees padding and, in a decoder, the future.
    """

    METHOD: ClassVar[str] = "unipelt"

    adapter_modules: list[str] = field(default_factory=list)
    lora_r: int = 8
    lora_alpha: float = 16.0
    adapter_r: int = 16
    activation: str = "relu"
    gate: str = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, lora_r=self.lora_r, lora_alpha=self.lora_alpha, adapter_r=self.adapter_r)
        require_one_of(self.METHOD, "activation", self.activation, ACTIVATIONS)
        require_one_of(self.METHOD, "gate", self.gate, GATES)
        strangers = sorted(set(self.adapter_modules) - set(self.target_modules))
        if strangers:
            raise PlacementError(
                f"{self.METHOD}: adapter_modules names {strangers[0]!r}, which is not among the target modules"
            )
