"""The model of serial bottleneck adapters."""

from __future__ import annotations

from evaluators.tuners.serial_adapter.layer import SerialAdapterLayer
from evaluators.tuners.wrapping import WrappingTuner


class SerialAdapterModel(WrappingTuner):
    """Serial adapters: a bottleneck on the output of each target, which starts as the identity.

    Houlsby et al. 2019 (https://arxiv.org/abs/1902.00751) place one after the attention output and one after
    the feed-forward output of every layer; Pfeiffer et al. 2021 (https://arxiv.org/abs/2005.00247) only the
    latter. Both are placements here. Trainable parameters per target of output width d: 2rd + r + d, and 2d
    more with a layer norm. It is nonlinear, so it never merges.
    """

    prefix = "serial_adapter_"
    tuner_layer_cls = SerialAdapterLayer
