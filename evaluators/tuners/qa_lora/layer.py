"""The layer of QA-LoRA."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evaluators.tuners.merging import Deltas, MergingLayer
from evaluators.tuners.qa_lora.config import QaLoraConfig
from evaluators.tuners.shapes import input_width, output_width
from evaluators.tuners.streams import first_input
from evaluators.tuners.weights import floating_weight
from evaluators.tuners.wrapping import Site, cast_like


class QaLoraLayer(MergingLayer):
    """y = W x + (alpha / r) B A p with p_g = the sum of x over group g (Xu et al. 2023, section 3.3).

    The columns of the change are alike within a group, so where the quantisation's groups are those of the input, the
    change can go into their zero points and the merged weights stay quantised.
    """

    adapter_layer_names = ("qa_lora_a", "qa_lora_b")
    other_param_names = ("qa_lora_config",)

    def _make_containers(self) -> None:
        self.qa_lora_a, self.qa_lora_b = nn.ModuleDict(), nn.ModuleDict()
        self.qa_lora_config: dict[str, QaLoraConfig] = {}

    def add_adapter(self, adapter_name: str, config: QaLoraConfig, site: Site) -> None:
        """Create A, as wide as there are groups, and B = 0."""
        groups = input_width(self, site.name) // config.group_size
        made: dict[str, Any] = {"bias": False, "device": self.adapter_device, "dtype": torch.float32}
        first = nn.Linear(groups, config.r, **made)
        second = nn.Linear(config.r, output_width(self, site.name), **made)
        nn.init.kaiming_uniform_(first.weight, a=math.sqrt(5))
        nn.init.zeros_(second.weight)
        self.qa_lora_a[adapter_name], self.qa_lora_b[adapter_name] = first, second
        self.qa_lora_config[adapter_name] = config

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped module and add every adapter's output."""
        x = first_input(args, kwargs).to(torch.float32)
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for name in adapter_names:
            pooled = x.unflatten(-1, (-1, self.qa_lora_config[name].group_size)).sum(-1)
            added = self._scale(name) * self.qa_lora_b[name](self.qa_lora_a[name](pooled))
            hidden = hidden + cast_like(added, hidden)
        return hidden

    def check_merge(self) -> None:
        """Refuse quantised weights, whose zero points are out of reach here.

        Raises:
            UnsupportedError: The wrapped module's weight is quantised.
        """
        floating_weight(self, type(self.get_base_layer()).__name__)

    def deltas(self, adapter_name: str) -> Deltas:
        """Return the change of W: A's columns repeated within their groups, which is a plain LoRA."""
        first = self.qa_lora_a.get_parameter(f"{adapter_name}.weight")
        repeated = first.repeat_interleave(self.qa_lora_config[adapter_name].group_size, 1)
        change = self._scale(adapter_name) * self.qa_lora_b.get_parameter(f"{adapter_name}.weight") @ repeated
        return {"weight": change.T if isinstance(self.get_base_layer(), Conv1D) else change}

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return the change of the weight, as peft asks for it when it converts an adapter to LoRA."""
        return self.deltas(adapter_name)["weight"]

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Tell peft that the change is a plain LoRA."""
        return True

    def _scale(self, adapter_name: str) -> float:
        config = self.qa_lora_config[adapter_name]
        return config.alpha / config.r
