"""Configuration of MTL-LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig, require_positive


@dataclass
class MtlLoraConfig(WrappingConfig):
    """Configuration of `MtlLoraModel`.

    Attributes:
        r: Rank.
        alpha: Numerator of the scale, alpha / r.
        n_up: Matrices B, which all tasks mix, each with weights of its own.
        n_tasks: Number of tasks.
        temperature: What the weights are divided by before their softmax; the authors' 0.1 parts them sharply.
    """

    METHOD: ClassVar[str] = "mtl_lora"

    r: int = 8
    alpha: float = 16.0
    n_up: int = 3
    n_tasks: int = 1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            self.METHOD,
            r=self.r,
            alpha=self.alpha,
            n_up=self.n_up,
            n_tasks=self.n_tasks,
            temperature=self.temperature,
        )
