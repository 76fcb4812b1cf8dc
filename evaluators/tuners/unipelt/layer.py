"""The layer of UniPELT."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.bottleneck import bottleneck, down_projection, up_projection
from evaluators.tuners.shapes import input_width, output_width
from evaluators.tuners.streams import first_input
from evaluators.tuners.unipelt.config import UniPeltConfig
from evaluators.tuners.wrapping import Site, WrappingLayer, cast_like


class UniPeltLayer(WrappingLayer):
    """y = W x + G(x) (alpha / r) B A x, or y = h + G(h) W_up f(W_down h) with h = W x (Mao et al. 2022, section 3).

    G(x) = sigmoid(w_G x + b_G) is one number between 0 and 1, from what the submodule reads.
    """

    adapter_layer_names = ("unipelt_a", "unipelt_b", "unipelt_down", "unipelt_up", "unipelt_gate")
    other_param_names = ("unipelt_config",)

    def _make_containers(self) -> None:
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
        self.unipelt_config: dict[str, UniPeltConfig] = {}

    def add_adapter(self, adapter_name: str, config: UniPeltConfig, site: Site) -> None:
        """Create the submodule that belongs here, and its gate."""
        self.unipelt_config[adapter_name] = config
        width, out = input_width(self, site.name), output_width(self, site.name)
        if site.name in config.adapter_modules:
            self.unipelt_down[adapter_name] = down_projection(out, config.adapter_r, self.adapter_device)
            self.unipelt_up[adapter_name] = up_projection(config.adapter_r, out, self.adapter_device)
            width = out
        else:
            self.unipelt_a[adapter_name] = self._matrix(width, config.lora_r)
            self.unipelt_b[adapter_name] = self._matrix(config.lora_r, out)
            nn.init.zeros_(self.unipelt_b[adapter_name].weight)
        self.unipelt_gate[adapter_name] = nn.Linear(width, 1, device=self.adapter_device, dtype=torch.float32)

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped module, then add every LoRA's output, then run the adapters in turn."""
        x = first_input(args, kwargs)
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for name in sorted(adapter_names, key=lambda name: name in self.unipelt_down):
            added = self._adapter(name, hidden) if name in self.unipelt_down else self._lora(name, x)
            hidden = hidden + cast_like(added, hidden)
        return hidden

    def gate(self, adapter_name: str, x: Tensor) -> Tensor:
        """Return how far the gate of this adapter opens for an input of shape [..., tokens, width]."""
        opened = torch.sigmoid(self.unipelt_gate[adapter_name](x.to(torch.float32)))
        if self.unipelt_config[adapter_name].gate == "sequence":
            opened = opened.mean(dim=-2, keepdim=True)
        return opened

    def _lora(self, name: str, x: Tensor) -> Tensor:
        config = self.unipelt_config[name]
        added: Tensor = self.unipelt_b[name](self.unipelt_a[name](x.to(torch.float32)))
        return self.gate(name, x) * (config.lora_alpha / config.lora_r) * added

    def _adapter(self, name: str, hidden: Tensor) -> Tensor:
        down, up = self.unipelt_down[name], self.unipelt_up[name]
        return self.gate(name, hidden) * bottleneck(hidden, down, self.unipelt_config[name].activation, up)

    def _matrix(self, width: int, out: int) -> nn.Linear:
        layer = nn.Linear(width, out, bias=False, device=self.adapter_device, dtype=torch.float32)
        nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        return layer
