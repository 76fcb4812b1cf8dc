"""The model of sparse masks."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.mask.config import MaskConfig
from evaluators.tuners.mask.layer import MaskLayer
from evaluators.tuners.weights import floating_weight
from evaluators.tuners.wrapping import WrappingTuner


class MaskModel(WrappingTuner):
    """Training of a fixed sparse set of weights (Sung et al. 2021, https://arxiv.org/abs/2111.09839).

    FISH masks take the weights with the largest Fisher information, estimated on a few batches; magnitude and random
    masks are its baselines. Trainable parameters: `density` times the weights of the targets, rounded per target; a
    selection by Fisher information spreads the same number differently. The state holds values and places. It
    merges exactly.
    """

    prefix = "sparse_mask_"
    tuner_layer_cls = MaskLayer

    def check_target(self, peft_config: MaskConfig, name: str, target: nn.Module) -> None:
        """Accept whatever has a floating-point weight: linear modules, embeddings, norms."""
        floating_weight(target, name)
