"""The model of BitFit."""

from __future__ import annotations

from evaluators.tuners.bitfit.layer import BitFitLayer
from evaluators.tuners.wrapping import WrappingTuner


class BitFitModel(WrappingTuner):
    """BitFit (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199): one trained vector per target.

    The vector is added to the output of linear modules and norms, so it works where the backbone has no bias
    (Llama) and the state holds the change only. Trainable parameters per target: its output width. It merges
    exactly; a module without a bias gets one.
    """

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer
