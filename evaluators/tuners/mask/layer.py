"""The layer of sparse masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.mask.config import MaskConfig
from evaluators.tuners.merging import Deltas
from evaluators.tuners.weights import WeightLayer, floating_weight, saved_buffers
from evaluators.tuners.wrapping import Site
from search_space.errors import UnsupportedError

_LARGEST_INT32 = 2**31


class MaskLayer(WeightLayer):
    """W + Δ, where Δ is zero but at a fixed set of places (Sung et al. 2021)."""

    adapter_layer_names = ("sparse_mask_values",)
    other_param_names = ("sparse_mask_indices", "sparse_mask_config", "sparse_mask_site")

    def _make_containers(self) -> None:
        self.sparse_mask_values = nn.ParameterDict()
        self.sparse_mask_indices = saved_buffers()
        self.sparse_mask_config: dict[str, MaskConfig] = {}
        self.sparse_mask_site: dict[str, Site] = {}

    def add_adapter(self, adapter_name: str, config: MaskConfig, site: Site) -> None:
        """Choose the places, and start with zeros there."""
        weight = floating_weight(self, site.name)
        self.sparse_mask_config[adapter_name] = config
        self.sparse_mask_site[adapter_name] = site
        self.place(adapter_name, _indices(config, weight, config.count(site.name, weight.numel())))

    def place(self, adapter_name: str, indices: Tensor) -> None:
        """Put the mask on these places of the flattened weight, with zeros there."""
        small = self.get_base_layer().get_parameter("weight").numel() < _LARGEST_INT32
        self.sparse_mask_indices[adapter_name] = indices.to(torch.int32 if small else torch.int64)
        values = torch.zeros(indices.numel(), device=indices.device, dtype=torch.float32)
        self.sparse_mask_values[adapter_name] = nn.Parameter(values)

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module with the changed weight.

        Raises:
            UnsupportedError: It is being trained, but a mask still waits for its selection.
        """
        if self.training and any(self.sparse_mask_config[name].awaits_selection for name in adapter_names):
            raise UnsupportedError(
                "this mask is chosen by Fisher information and has not been chosen yet: "
                "call select_by_scores(model, fisher_scores(model, batches)) before training"
            )
        return super().adapt(adapter_names, *args, **kwargs)

    def deltas(self, adapter_name: str) -> Deltas:
        """Return Δ, dense."""
        weight = self.get_base_layer().get_parameter("weight")
        values, indices = self.sparse_mask_values[adapter_name], self.sparse_mask_indices[adapter_name]
        flat = torch.zeros(weight.numel(), device=values.device, dtype=values.dtype)
        return {"weight": flat.scatter(0, indices.long(), values).view_as(weight)}


def _indices(config: MaskConfig, weight: Tensor, count: int) -> Tensor:
    """Return the places of a mask in ascending order; placeholders where they come from data or from a file."""
    if config.awaits_selection or config.inference_mode or config.counts is not None or weight.is_meta:
        return torch.arange(count, device=weight.device)
    if config.criterion == "random":
        return torch.randperm(weight.numel(), device=weight.device)[:count].sort().values
    return weight.detach().abs().flatten().float().topk(count).indices.sort().values
