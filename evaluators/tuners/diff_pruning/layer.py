"""The layer of diff pruning."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from evaluators.tuners.diff_pruning.config import DiffPruningConfig
from evaluators.tuners.merging import Deltas
from evaluators.tuners.weights import WeightLayer, floating_weight
from evaluators.tuners.wrapping import Site

_SMALLEST_NOISE = 1e-6

OPEN = 20.0
"""A gate's parameter at which no noise closes it. Its negative keeps it closed."""


class DiffPruningLayer(WeightLayer):
    """W + z ⊙ w with hard-concrete gates z (Guo et al. 2021, section 3.1).

    z = min(1, max(0, s (u - l) + l)), where s = sigmoid(log e - log(1 - e) + a) with e ~ U(0, 1) in training, and
    s = sigmoid(a) in evaluation. With `structured` a gate for the whole target multiplies those of its weights
    (section 3.3).
    """

    adapter_layer_names = ("diff_pruning_change", "diff_pruning_gate", "diff_pruning_group")
    other_param_names = ("diff_pruning_config",)

    def _make_containers(self) -> None:
        self.diff_pruning_change = nn.ParameterDict()
        self.diff_pruning_gate = nn.ParameterDict()
        self.diff_pruning_group = nn.ParameterDict()
        self.diff_pruning_config: dict[str, DiffPruningConfig] = {}

    def add_adapter(self, adapter_name: str, config: DiffPruningConfig, site: Site) -> None:
        """Create w = 0 and open gates."""
        weight = floating_weight(self, site.name)

        def filled(shape: tuple[int, ...], value: float) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, value, device=weight.device, dtype=torch.float32))

        self.diff_pruning_change[adapter_name] = filled(tuple(weight.shape), 0.0)
        self.diff_pruning_gate[adapter_name] = filled(tuple(weight.shape), config.start)
        if config.structured:
            self.diff_pruning_group[adapter_name] = filled((1,), config.start)
        self.diff_pruning_config[adapter_name] = config

    def deltas(self, adapter_name: str) -> Deltas:
        """Return z ⊙ w."""
        change = self.diff_pruning_change[adapter_name]
        for gate in self.gates(adapter_name):
            change = change * self._open(adapter_name, gate)
        return {"weight": change}

    def gates(self, adapter_name: str) -> list[nn.Parameter]:
        """Return the parameters a of this target's gates: per weight, and of the whole where there is one."""
        containers = (self.diff_pruning_gate, self.diff_pruning_group)
        return [container[adapter_name] for container in containers if adapter_name in container]

    def expected_nonzeros(self, adapter_name: str) -> Tensor:
        """Return the expected number of nonzero changes, the sum of sigmoid(a - log(-l / u)) (section 3.1)."""
        config = self.diff_pruning_config[adapter_name]
        shift = math.log(-config.lower / config.upper)
        probability = torch.ones((), device=self.adapter_device)
        for gate in self.gates(adapter_name):
            probability = probability * torch.sigmoid(gate - shift)
        return probability.sum()

    def _open(self, adapter_name: str, gate: Tensor) -> Tensor:
        config = self.diff_pruning_config[adapter_name]
        if self.training:
            noise = torch.rand_like(gate).clamp(_SMALLEST_NOISE, 1 - _SMALLEST_NOISE)
            gate = gate + noise.log() - (-noise).log1p()
        stretched = torch.sigmoid(gate) * (config.upper - config.lower) + config.lower
        return stretched.clamp(0.0, 1.0)
