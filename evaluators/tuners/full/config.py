"""Configuration of full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig


@dataclass
class FullConfig(WrappingConfig):
    """Configuration of `FullModel`. A target may be any module: everything in it is trained.

    The last k layers are the placement on k layers; the whole model is the placement on its outermost modules.
    """

    METHOD: ClassVar[str] = "full"
