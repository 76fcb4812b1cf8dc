"""The model of QA-LoRA."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.qa_lora.config import QaLoraConfig
from evaluators.tuners.qa_lora.layer import QaLoraLayer
from evaluators.tuners.shapes import input_width, is_linear
from evaluators.tuners.wrapping import WrappingTuner
from search_space.errors import UnsupportedError


class QaLoraModel(WrappingTuner):
    """QA-LoRA (Xu et al. 2023, https://arxiv.org/abs/2309.14717): LoRA that reads sums over groups of inputs.

    peft has it for GPTQ layers only; here it stands on any linear module. Trainable parameters per target:
    r (d_in / group_size + d_out). It starts as the identity and merges exactly into weights that are not quantised.
    """

    prefix = "qa_lora_"
    tuner_layer_cls = QaLoraLayer

    def check_target(self, peft_config: QaLoraConfig, name: str, target: nn.Module) -> None:
        """Accept linear modules whose inputs can be grouped."""
        if not is_linear(target):
            raise UnsupportedError(f"qa_lora: {name!r} is not linear")
        if input_width(target, name) % peft_config.group_size:
            raise UnsupportedError(
                f"qa_lora: group_size = {peft_config.group_size} does not divide the {input_width(target, name)} "
                f"inputs of {name!r}"
            )
