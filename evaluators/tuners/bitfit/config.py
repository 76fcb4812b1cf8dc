"""Configuration of BitFit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig


@dataclass
class BitFitConfig(WrappingConfig):
    """Configuration of `BitFitModel`. It has no size: the placement is the only choice."""

    METHOD: ClassVar[str] = "bitfit"
