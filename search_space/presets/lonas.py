"""LoNAS: LoRA on queries and values with an elastic rank, one for each layer.

Muñoz, Yuan, Zheng & Jain 2024, "LoNAS: Elastic Low-Rank Adapters for Efficient Large Language Models", LREC-COLING,
with the ranks 8, 4 and 2 that its code has for BERT on GLUE (32, 24 and 16 for LLaMA-7B): 3^L candidates on L layers,
531,441 on 12. The paper also narrows the backbone's own matrices, which Paretune leaves as they are.
"""

from typing import Any

from search_space.presets import part

PRESET: dict[str, Any] = {
    "methods": {},
    "hybrids": [
        {
            "name": "lonas",
            "parts": [
                part(
                    "lora", r={"of": [2, 4, 8], "per": "layer"}, alpha=16, use_rslora=False, use_dora=False,
                    projections="attention.query,attention.value", layers="all",
                )
            ],
        }
    ],
}  # fmt: skip
