"""Sparse masks: a few weights of each target are trained (Sung et al. 2021)."""

from evaluators.tuners.mask.config import MaskConfig
from evaluators.tuners.mask.layer import MaskLayer
from evaluators.tuners.mask.model import MaskModel
from evaluators.tuners.mask.selection import fisher_scores, select_by_scores

__all__ = ["MaskConfig", "MaskLayer", "MaskModel", "fisher_scores", "select_by_scores"]
