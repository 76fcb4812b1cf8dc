"""The layer of serial bottleneck adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.bottleneck import bottleneck, down_projection, up_projection
from evaluators.tuners.serial_adapter.config import SerialAdapterConfig
from evaluators.tuners.shapes import output_width
from evaluators.tuners.wrapping import Site, WrappingLayer, cast_like


class SerialAdapterLayer(WrappingLayer):
    """y = h + s W_up f(W_down LN(h)) with h = base(x); LN is optional (Houlsby et al. 2019, section 2.1)."""

    adapter_layer_names = ("serial_adapter_down", "serial_adapter_up", "serial_adapter_norm")
    other_param_names = ("serial_adapter_config",)

    def _make_containers(self) -> None:
        self.serial_adapter_down = nn.ModuleDict()
        self.serial_adapter_up = nn.ModuleDict()
        self.serial_adapter_norm = nn.ModuleDict()
        self.serial_adapter_config: dict[str, SerialAdapterConfig] = {}

    def add_adapter(self, adapter_name: str, config: SerialAdapterConfig, site: Site) -> None:
        """Create W_down, W_up and, when asked for, the layer norm."""
        width, device = output_width(self, site.name), self.adapter_device
        self.serial_adapter_down[adapter_name] = down_projection(width, config.r, device)
        self.serial_adapter_up[adapter_name] = up_projection(config.r, width, device)
        if config.layer_norm:
            self.serial_adapter_norm[adapter_name] = nn.LayerNorm(width, device=device, dtype=torch.float32)
        self.serial_adapter_config[adapter_name] = config

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped module, then the adapters in the order in which they were activated."""
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for name in adapter_names:
            hidden = hidden + cast_like(self._bottleneck(name, hidden), hidden)
        return hidden

    def _bottleneck(self, name: str, hidden: Tensor) -> Tensor:
        config = self.serial_adapter_config[name]
        if name in self.serial_adapter_norm:
            hidden = self.serial_adapter_norm[name](hidden.to(torch.float32))
        down, up = self.serial_adapter_down[name], self.serial_adapter_up[name]
        return config.scaling * bottleneck(hidden, down, config.activation, up)
