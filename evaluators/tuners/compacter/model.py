"""The model of Compacter."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.compacter.config import CompacterConfig
from evaluators.tuners.compacter.layer import CompacterLayer
from evaluators.tuners.shapes import output_width
from evaluators.tuners.wrapping import WrappingTuner
from search_space.errors import UnsupportedError


class CompacterModel(WrappingTuner):
    """Compacter (https://arxiv.org/abs/2106.04647): serial adapters whose matrices are sums of Kronecker products.

    Trainable parameters per target of output width d, for B_i of rank k: 2k(d + r) + r + d, and n³ for the A_i,
    once when they are shared. (Without factors: 2rd/n instead of the first term.) It starts as the identity and,
    being nonlinear, never merges. The paper's Compacter++ is the placement after the feed-forward blocks only.
    """

    prefix = "compacter_"
    tuner_layer_cls = CompacterLayer

    def check_target(self, peft_config: CompacterConfig, name: str, target: nn.Module) -> None:
        """Accept linear modules and norms whose output width is a multiple of n."""
        width = output_width(target, name)
        if width % peft_config.n:
            raise UnsupportedError(
                f"compacter: n = {peft_config.n} does not divide the width {width} of {name!r}; "
                f"{_divisors(width, peft_config.r)} would"
            )


def _divisors(width: int, r: int) -> str:
    fitting = [n for n in (2, 3, 4, 5, 6, 8, 12, 16) if width % n == 0 and r % n == 0]
    return ", ".join(map(str, fitting or [1]))
