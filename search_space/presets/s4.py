"""S4: four groups of layers, each with any subset of adapter, prefix, BitFit and LoRA; sizes along the groups.

Chen et al. 2023, ICLR (arXiv:2301.01821): layers are grouped, parameters are allocated to groups, groups are tuned or
not, and each has a subset of the four methods. Which groups have which methods: 2^16 - 1 choices, some method
somewhere. The paper refines its space step by step, from random samples, and gives no total that we know of; what
follows from it are these 65,535. It allocates a budget (0.5 %) and not sizes. Here the sizes of a method are 4, 8 or
16 on all of its groups, or rise (4, 8, 8, 16) or fall along the four. On its 15 subsets of the groups a method with
sizes has 65 forms, choices that come to the same sizes counted once. So the space has (65 + 1)^3 (15 + 1) - 1 =
4,599,935 candidates, whatever the number of layers from 4 on. Groups are of equal length; what is left over goes to
the middle, as in the spindle that the paper ends with.
"""

from typing import Any

from search_space.presets import part

_SIZES = {"of": [4, 8, 16], "per": "shape:4", "shapes": ["uniform", "increasing", "decreasing"]}
_GROUPS = ["none", "subset:4"]

PRESET: dict[str, Any] = {
    "methods": {},
    "hybrids": [
        {
            "name": "s4",
            "parts": [
                part("serial_adapter", r=_SIZES, activation="relu", projections="mlp.down", layers=_GROUPS),
                part("prefix_tuning", num_virtual_tokens=_SIZES, layers=_GROUPS),
                part("bitfit", projections="linear,norm", layers=_GROUPS),
                part(
                    "lora", r=_SIZES, alpha=16, use_rslora=False, use_dora=False,
                    projections="attention.query,attention.value", layers=_GROUPS,
                ),
            ],
        }
    ],
}  # fmt: skip
