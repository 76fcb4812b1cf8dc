"""BIPEFT: the places of S3Delta, and a rank for each that is on.

Chang et al. 2024, EMNLP (arXiv:2410.09079), its space "S1": LoRA on the six matrices of a layer and adapters behind
its two blocks are off or have a rank of 1, 4 or 8; BitFit on the six matrices and the norms are on or off. So a layer
has 4^8 2^7 forms, and L layers have 2^(23 L) - 1 candidates. `space/t5_search_space.py` in its repository
(Aofei-Chang/BIPEFT) gives the numbers of positions on T5-large: LoRA 48 * 6, adapters 48 * 2, BitFit 48 * 6 + 122,
norms 122, and `candidate_dims = [1, 4, 8]`. The preset has 48 * 23 = 1,104 bits there for the paper's 1,300, since as
in the preset `s3delta` the norms of a layer go together, scale and bias. The paper alternates between places and
ranks, by gradient, under a budget of parameters.
"""

from typing import Any

from search_space.presets import part

_GATES = ["none", "subset"]
_RANKS = {"of": [1, 4, 8], "per": "layer"}
_MATRICES = (
    *("attention.query", "attention.key", "attention.value", "attention.output"),
    *("mlp.up", "mlp.down"),
)

PRESET: dict[str, Any] = {
    "methods": {},
    "hybrids": [
        {
            "name": "bipeft",
            "parts": [
                *(
                    part("lora", r=_RANKS, alpha=16, use_rslora=False, use_dora=False, projections=one, layers=_GATES)
                    for one in _MATRICES
                ),
                *(part("bitfit", projections=one, layers=_GATES) for one in _MATRICES),
                part("ln_tuning", projections="norm", layers=_GATES),
                *(
                    part("serial_adapter", r=_RANKS, activation="relu", projections=one, layers=_GATES)
                    for one in ("attention.output", "mlp.down")
                ),
            ],
        }
    ],
}
