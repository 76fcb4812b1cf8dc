"""NOAH: adapter, LoRA and prompts, each on the first layers down to a depth of its own, with a size for each layer.

Zhang, Zhou & Liu 2022, arXiv:2206.04673. The choices are those of
`experiments/NOAH/supernet/supernet-B_prompt_VPT.yaml` in its repository (ZhangYuanhan-AI/NOAH), as `get_random_cand`
of `evolution.py` draws them: for each of the three methods a depth of 3, 6, 9 or 12, and in each of these layers a
size of 1, 5 or 10. So a method has 3^3 + 3^6 + 3^9 + 3^12 = 551,880 forms on 12 layers, and the space has 551,880^3,
about 1.7e17: a total that follows from these choices, and is not stated there. The subnets that were found for VTAB
have these sizes; `supernet-B_prompt.yaml` beside it has 5, 10, 50 and 100, as those for few examples a class. Its
supernet is not built: candidates are trained one by one. Its prompts before each layer's input are prefixes of that
layer here. Depths beyond the model's layers are left out.
"""

from typing import Any

from search_space.presets import part

_DEPTHS = ["first:3", "first:6", "first:9", "first:12"]
_SIZES = {"of": [1, 5, 10], "per": "layer"}

PRESET: dict[str, Any] = {
    "methods": {},
    "hybrids": [
        {
            "name": "noah",
            "parts": [
                part("serial_adapter", r=_SIZES, activation="relu", projections="mlp.down", layers=_DEPTHS),
                part(
                    "lora", r=_SIZES, alpha=16, use_rslora=False, use_dora=False,
                    projections="attention.query,attention.value", layers=_DEPTHS,
                ),
                part("prefix_tuning", num_virtual_tokens=_SIZES, layers=_DEPTHS),
            ],
        }
    ],
}  # fmt: skip
