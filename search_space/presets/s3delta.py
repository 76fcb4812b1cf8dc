"""S3Delta: LoRA of rank 1, BitFit, norms and small adapters, each on or off at each place of each layer.

Hu et al. 2022, NeurIPS (arXiv:2206.07382), section 3 and its space "M": LoRA and BitFit on the six matrices of a
layer, LNFiT on its norms, low-rank adapters behind attention and feed-forward block. One bit for each: 15 a layer, so
2^(15 L) - 1 candidates on L layers. The positions are those of `NAS_global/structure_config/mix_low_rank.json` in its
repository (thunlp/S3Delta). On the 48 layers of T5-large these are 916: 288 of LoRA, 288 of BitFit on matrices, 96 of
adapters, and a scale and a bias for each of 122 norms. The preset has 720 there, since the norms of a layer go
together, scale and bias, one bit for 48 layers in place of 244: by themselves they are a few numbers each. Where a
decoder attends to an encoder, the matrices of both attentions go together; the paper leaves the second one as it is.
Its low-rank adapters are bottlenecks of width 1. It searches under an exact number of parameters, by gradient: set
`budgets.trainable_params`, which is a hard limit here as well.
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
