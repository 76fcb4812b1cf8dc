"""Names that people know for one setting of a method, such as `houlsby`: read in the notation, never written.

A form is a method with some knobs and, where it has one, a placement of its own. It has no identity of its own: the
candidate is that of the method, so nothing is searched twice.
"""

from __future__ import annotations

from collections.abc import Mapping

FORMS: Mapping[str, str] = {
    "dora": "lora(use_dora=true)",
    "fish_mask": "mask(criterion=fisher)",
    "houlsby": "serial_adapter@attention.output,mlp.down",
    "magnitude_mask": "mask(criterion=magnitude)",
    "pfeiffer": "serial_adapter@mlp.down",
    "rslora": "lora(use_rslora=true)",
    "scaled_parallel": "parallel_adapter(scaling=4)@mlp.down",
}
"""Each form in the notation.

Houlsby et al. 2019 (arXiv:1902.00751) put a bottleneck behind the attention and one behind the feed-forward block,
Pfeiffer et al. 2021 (arXiv:2005.00247) only the latter. AdapterDrop (Rueckle et al. 2021, arXiv:2010.11918) leaves the
lower layers out, which is a choice of layers: `pfeiffer@[top:8]`. The scaled parallel adapter is of He et al. 2022
(arXiv:2110.04366), DoRA of Liu et al. 2024 (arXiv:2402.09353), rsLoRA of Kalajdzievski 2023 (arXiv:2312.03732), and
masks by Fisher information of Sung, Nair & Raffel 2021 (arXiv:2111.09839).
"""
