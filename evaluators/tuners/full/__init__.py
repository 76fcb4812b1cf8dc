"""Full fine-tuning of chosen modules, as a tuner like any other."""

from evaluators.tuners.full.config import FullConfig
from evaluators.tuners.full.layer import FullLayer
from evaluators.tuners.full.model import FullModel

__all__ = ["FullConfig", "FullLayer", "FullModel"]
