"""Configuration of QA-LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig, require_positive


@dataclass
class QaLoraConfig(WrappingConfig):
    """Configuration of `QaLoraModel`.

    Attributes:
        r: Rank.
        alpha: Numerator of the scale, alpha / r.
        group_size: Inputs that are summed and read as one; it divides the input width of every target.
    """

    METHOD: ClassVar[str] = "qa_lora"

    r: int = 8
    alpha: float = 16.0
    group_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, r=self.r, alpha=self.alpha, group_size=self.group_size)
