"""QA-LoRA: a low-rank update that reads groups of inputs as one (Xu et al. 2023)."""

from evaluators.tuners.qa_lora.config import QaLoraConfig
from evaluators.tuners.qa_lora.layer import QaLoraLayer
from evaluators.tuners.qa_lora.model import QaLoraModel

__all__ = ["QaLoraConfig", "QaLoraLayer", "QaLoraModel"]
