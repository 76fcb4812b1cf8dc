"""MTL-LoRA: a low-rank update of which several tasks share a part and keep a part (Yang et al. 2024)."""

from evaluators.tuners.mtl_lora.config import MtlLoraConfig
from evaluators.tuners.mtl_lora.layer import MtlLoraLayer
from evaluators.tuners.mtl_lora.model import MtlLoraModel

__all__ = ["MtlLoraConfig", "MtlLoraLayer", "MtlLoraModel"]
