"""Ladder side-tuning: a small network beside the backbone (Sung et al. 2022)."""

from evaluators.tuners.lst.config import LstConfig
from evaluators.tuners.lst.layer import LstLayer
from evaluators.tuners.lst.model import LstModel

__all__ = ["LstConfig", "LstLayer", "LstModel"]
