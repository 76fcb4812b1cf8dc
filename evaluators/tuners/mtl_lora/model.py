"""The model of MTL-LoRA."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.mtl_lora.config import MtlLoraConfig
from evaluators.tuners.mtl_lora.layer import MtlLoraLayer
from evaluators.tuners.shapes import is_linear
from evaluators.tuners.wrapping import WrappingTuner
from search_space.errors import UnsupportedError


class MtlLoraModel(WrappingTuner):
    """MTL-LoRA (Yang et al. 2024, https://arxiv.org/abs/2410.09437): several tasks share one low-rank update.

    Trainable parameters per target, for n tasks and k up-projections: r d_in + k r d_out + n r^2 + n k. It starts as
    the identity. What it adds depends on the task, so it never merges.
    """

    prefix = "mtl_lora_"
    tuner_layer_cls = MtlLoraLayer

    def check_target(self, peft_config: MtlLoraConfig, name: str, target: nn.Module) -> None:
        """Accept linear modules."""
        if not is_linear(target):
            raise UnsupportedError(f"mtl_lora: {name!r} is not linear")
