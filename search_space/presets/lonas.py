"""LoNAS: LoRA on queries and values with an elastic rank, one for each layer.

Muñoz, Yuan, Zheng & Jain 2024, "LoNAS: Elastic Low-Rank Adapters for Efficient Large Language Models", LREC-COLING,
with the ranks 8, 4 and 2 that its code has for BERT on GLUE (32, 24 and 16 for LLaMA-7B): 3^L candidates on L layers,
531,441 on 12. In `LoNAS/nncf_config/glue/nncf_lonas_bert_base_mnli.json`
(IntelLabs/Hardware-Aware-Automated-Machine-Learning) queries and values of a layer are one group, with the widths [8,
4, 2] in each of 12. The 24 groups beside them narrow the backbone's own matrices: 2^11 * 3 choices for attention and
3^12 for the feed-forward blocks. These Paretune leaves as they are, since it never changes the backbone.
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
