"""UniPELT: LoRA and adapters behind gates (Mao et al. 2022)."""

from evaluators.tuners.unipelt.config import UniPeltConfig
from evaluators.tuners.unipelt.layer import UniPeltLayer
from evaluators.tuners.unipelt.model import UniPeltModel

__all__ = ["UniPeltConfig", "UniPeltLayer", "UniPeltModel"]
