"""The layer of BitFit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.bitfit.config import BitFitConfig
from evaluators.tuners.merging import Deltas, MergingLayer
from evaluators.tuners.shapes import output_width
from evaluators.tuners.wrapping import Site
from search_space.errors import UnsupportedError


class BitFitLayer(MergingLayer):
    """y = base(x) + Δb, which is base with the bias b + Δb (Ben Zaken et al. 2022, section 3)."""

    adapter_layer_names = ("bitfit_bias",)

    def _make_containers(self) -> None:
        self.bitfit_bias = nn.ParameterDict()

    def add_adapter(self, adapter_name: str, config: BitFitConfig, site: Site) -> None:
        """Create Δb = 0."""
        width = output_width(self, site.name)
        self.bitfit_bias[adapter_name] = nn.Parameter(torch.zeros(width, device=self.adapter_device))

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Add every Δb to the output."""
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for name in adapter_names:
            hidden = (hidden + self.bitfit_bias[name]).to(hidden.dtype)
        return hidden

    def check_merge(self) -> None:
        """Refuse a module whose forward pass has no place for a bias (RMSNorm).

        Raises:
            UnsupportedError: The module is of that kind.
        """
        module = self.get_base_layer()
        if not hasattr(module, "bias"):
            raise UnsupportedError(
                f"bitfit cannot be merged into {type(module).__name__}, which computes without a bias; "
                "place it on linear modules, or serve the backbone with the adapter attached"
            )

    def deltas(self, adapter_name: str) -> Deltas:
        """Return Δb for the module's bias."""
        return {"bias": self.bitfit_bias[adapter_name].detach()}
