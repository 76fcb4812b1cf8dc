"""The model of UniPELT."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.shapes import is_linear, output_width
from evaluators.tuners.unipelt.config import UniPeltConfig
from evaluators.tuners.unipelt.layer import UniPeltLayer
from evaluators.tuners.wrapping import WrappingTuner
from search_space.errors import UnsupportedError


class UniPeltModel(WrappingTuner):
    """UniPELT (Mao et al. 2022, https://arxiv.org/abs/2110.07577): submodules that learn when to take part.

    LoRAs sit on the query and value projections, adapters behind the feed-forward blocks. The paper's third
    submodule, prefix tuning, is a part of its own in a hybrid. Trainable parameters: of a LoRA r(d_in + d_out) +
    d_in + 1, of an adapter 2rd + r + 2d + 1. It starts as the identity. The gates depend on the input, so it never
    merges.
    """

    prefix = "unipelt_"
    tuner_layer_cls = UniPeltLayer

    def check_target(self, peft_config: UniPeltConfig, name: str, target: nn.Module) -> None:
        """Accept linear modules, and norms for adapters."""
        output_width(target, name)
        if name not in peft_config.adapter_modules and not is_linear(target):
            raise UnsupportedError(f"unipelt: {name!r} is not linear, so it cannot have a LoRA; adapters can go there")
