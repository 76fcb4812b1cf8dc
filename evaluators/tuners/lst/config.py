"""Configuration of ladder side-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.wrapping import WrappingConfig, require_one_of, require_positive

SIDE_BLOCKS = ("transformer", "feed_forward")


@dataclass
class LstConfig(WrappingConfig):
    """Configuration of `LstModel`. The targets are whole layers, in the order in which the backbone runs them.

    Attributes:
        reduction: Width of the backbone divided by that of the side network.
        side_block: What the side network has beside each target: attention and feed-forward (`transformer`), or only
            the latter (`feed_forward`), which also works with a key-value cache.
        heads: Attention heads of a side block; they divide its width.
        temperature: Temperature T of the gates, sigmoid(a / T).
    """

    METHOD: ClassVar[str] = "lst"

    reduction: int = 8
    side_block: str = "transformer"
    heads: int = 4
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, reduction=self.reduction, heads=self.heads, temperature=self.temperature)
        require_one_of(self.METHOD, "side_block", self.side_block, SIDE_BLOCKS)

    def ladder(self, name: str) -> list[str]:
        """Return the targets of the stack that a target is in: an encoder and a decoder have a ladder each."""
        stack = name.rpartition(".")[0]
        return [target for target in self.target_modules if target.rpartition(".")[0] == stack]
