"""Compacter: adapters of parameterised hypercomplex layers (Karimi Mahabadi et al. 2021)."""

from evaluators.tuners.compacter.config import CompacterConfig
from evaluators.tuners.compacter.layer import CompacterLayer
from evaluators.tuners.compacter.model import CompacterModel

__all__ = ["CompacterConfig", "CompacterLayer", "CompacterModel"]
