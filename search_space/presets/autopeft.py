"""AutoPEFT: serial adapter, parallel adapter and prefix of ten sizes or none, all on one subset of the layers.

Zhou, Wan, Vulić & Korhonen 2023, arXiv:2301.12132, section 3.1. Each size is 0 or one of ten, at least one is not 0,
and one bit for each layer says where all of them go: (11^3 - 1) (2^12 - 1) = 5,446,350 candidates on 12 layers. The
paper has one learning rate for all; here each method has its own default. The parallel adapter stands beside the second
matrix of the feed-forward block, as everywhere in Paretune.
"""

from typing import Any

from search_space.presets import part

_SIZES = [0, 1, 3, 6, 12, 24, 48, 96, 192, 384, 768]

PRESET: dict[str, Any] = {
    "methods": {},
    "hybrids": [
        {
            "name": "autopeft",
            "parts": [
                part("serial_adapter", r=_SIZES, activation="relu", projections="mlp.down"),
                part("parallel_adapter", r=_SIZES, activation="relu", scaling=4, projections="mlp.down"),
                part("prefix_tuning", num_virtual_tokens=_SIZES),
            ],
            "layers": "subset",
        }
    ],
}
