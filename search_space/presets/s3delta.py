"""S3Delta: LoRA of rank 1, BitFit, norms and small adapters, each on or off at each place of each layer.

Hu et al. 2022, NeurIPS (arXiv:2206.07382), section 3 and its space "M": LoRA and BitFit on the six matrices of a layer,
LNFiT on its norms, low-rank adapters behind attention and feed-forward block. One bit for each: 15 a layer, so
2^(15 L) - 1 candidates on L layers. The paper has a bit for each norm and for the norms' biases; here the norms of a
layer go together, scale and bias. Its low-rank adapters are bottlenecks of width 1. It searches under an exact number
of parameters, by gradient: set `budgets.trainable_params`, which is a hard limit here as well.
"""

from typing import Any

from search_space.presets import part

_GATES = ["none", "subset"]
_MATRICES = (
    *("attention.query", "attention.key", "attention.value", "attention.output"),
    *("mlp.up", "mlp.down"),
)

PRESET: dict[str, Any] = {
    "methods": {},
    "hybrids": [
        {
            "name": "s3delta",
            "parts": [
                *(
                    part("lora", r=1, alpha=16, use_rslora=False, use_dora=False, projections=one, layers=_GATES)
                    for one in _MATRICES
                ),
                *(part("bitfit", projections=one, layers=_GATES) for one in _MATRICES),
                part("ln_tuning", projections="norm", layers=_GATES),
                *(
                    part("serial_adapter", r=1, activation="relu", projections=one, layers=_GATES)
                    for one in ("attention.output", "mlp.down")
                ),
            ],
        }
    ],
}
