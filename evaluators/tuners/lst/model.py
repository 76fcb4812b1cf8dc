"""The model of ladder side-tuning."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.lst.config import LstConfig
from evaluators.tuners.lst.layer import LstLayer
from evaluators.tuners.shapes import block_widths
from evaluators.tuners.wrapping import WrappingTuner
from search_space.errors import UnsupportedError


class LstModel(WrappingTuner):
    """Ladder side-tuning (Sung et al. 2022, https://arxiv.org/abs/2206.06522): no gradient goes through the backbone.

    A side network of small width runs beside the targets, the layers of the backbone, and reads their outputs
    through ladders. What differs from the paper: side blocks are plain transformer blocks with a fresh start
    (theirs are the backbone's own, pruned), and the side network's result is added to the backbone's, so that
    training starts at the backbone. It never merges.

    Trainable parameters for N layers of width d and w = d / reduction: (N + 1)(dw + w) + N + N(12 w² + 13 w) +
    2w + wd + d; with feed-forward side blocks 8 w² + 7 w in the place of 12 w² + 13 w.
    """

    prefix = "lst_"
    tuner_layer_cls = LstLayer

    def check_target(self, peft_config: LstConfig, name: str, target: nn.Module) -> None:
        """Accept layers whose width the side network's fits."""
        hidden = block_widths(target, name)[1]
        if hidden % peft_config.reduction:
            raise UnsupportedError(f"lst: reduction = {peft_config.reduction} does not divide the width {hidden}")
        width = hidden // peft_config.reduction
        if peft_config.side_block == "transformer" and width % peft_config.heads:
            raise UnsupportedError(
                f"lst: {peft_config.heads} heads do not divide the side network's width {width}; "
                f"choose other heads, or side_block='feed_forward'"
            )
