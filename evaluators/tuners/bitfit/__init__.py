"""BitFit: only bias terms are trained (Ben Zaken et al. 2022)."""

from evaluators.tuners.bitfit.config import BitFitConfig
from evaluators.tuners.bitfit.layer import BitFitLayer
from evaluators.tuners.bitfit.model import BitFitModel

__all__ = ["BitFitConfig", "BitFitLayer", "BitFitModel"]
