"""The layer of Compacter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.bottleneck import ACTIVATIONS
from evaluators.tuners.compacter.config import CompacterConfig
from evaluators.tuners.compacter.phm import PHMLinear, rules
from evaluators.tuners.shapes import output_width
from evaluators.tuners.wrapping import Site, WrappingLayer, cast_like


class CompacterLayer(WrappingLayer):
    """y = h + s PHM_up(f(PHM_down(h))) with h = base(x) (Karimi Mahabadi et al. 2021)."""

    adapter_layer_names = ("compacter_rules", "compacter_down", "compacter_up")
    other_param_names = ("compacter_config",)

    def _make_containers(self) -> None:
        self.compacter_rules = nn.ParameterDict()
        self.compacter_down = nn.ModuleDict()
        self.compacter_up = nn.ModuleDict()
        self.compacter_config: dict[str, CompacterConfig] = {}

    def add_adapter(self, adapter_name: str, config: CompacterConfig, site: Site) -> None:
        """Create the two layers, and the A_i unless an earlier target has them already."""
        width, device = output_width(self, site.name), self.adapter_device
        rank = config.factor_rank if config.factorised else None
        self.compacter_down[adapter_name] = PHMLinear(width, config.r, config.n, rank, False, device)
        self.compacter_up[adapter_name] = PHMLinear(config.r, width, config.n, rank, True, device)
        self.compacter_config[adapter_name] = config
        key = "rules" if config.shared else f"rules of {site.name}"
        self.compacter_rules[adapter_name] = site.shared.parameter(key, lambda: rules(config.n, device))
        site.shared.hold(key, self, f"compacter_rules.{adapter_name}")

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped module, then the adapters in the order in which they were activated."""
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for name in adapter_names:
            hidden = hidden + cast_like(self._bottleneck(name, hidden), hidden)
        return hidden

    def _bottleneck(self, name: str, hidden: Tensor) -> Tensor:
        config, a = self.compacter_config[name], self.compacter_rules[name]
        inner = ACTIVATIONS[config.activation](self.compacter_down[name](hidden.to(torch.float32), a))
        raised: Tensor = self.compacter_up[name](inner, a)
        return config.scaling * raised
