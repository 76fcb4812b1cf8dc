"""Diff pruning: a dense change that is trained to be sparse (Guo et al. 2021)."""

from evaluators.tuners.diff_pruning.config import DiffPruningConfig
from evaluators.tuners.diff_pruning.layer import DiffPruningLayer
from evaluators.tuners.diff_pruning.model import DiffPruningModel
from evaluators.tuners.diff_pruning.sparsity import fix_mask, kept_weights, sparsity_penalty

__all__ = [
    "DiffPruningConfig",
    "DiffPruningLayer",
    "DiffPruningModel",
    "fix_mask",
    "kept_weights",
    "sparsity_penalty",
]
