"""The layer of MTL-LoRA."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evaluators.tuners.mtl_lora.config import MtlLoraConfig
from evaluators.tuners.shapes import input_width, output_width
from evaluators.tuners.streams import first_input
from evaluators.tuners.wrapping import Site, WrappingLayer, cast_like


class MtlLoraLayer(WrappingLayer):
    """y = W x + (alpha / r) sum_i softmax(w_t / tau)_i B_i L_t A x for task t (Yang et al. 2024, section 3).

    A and all B_i are those of all tasks; L_t, r by r, and the weights w_t are the task's own. L_t starts as the
    identity and B_i as 0; the weights start at random, or all B_i would learn the same.
    """

    adapter_layer_names = ("mtl_lora_a", "mtl_lora_b", "mtl_lora_own", "mtl_lora_weights")
    other_param_names = ("mtl_lora_config",)
    told_tasks: ClassVar[bool] = True

    def _make_containers(self) -> None:
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.mtl_lora_config: dict[str, MtlLoraConfig] = {}

    def add_adapter(self, adapter_name: str, config: MtlLoraConfig, site: Site) -> None:
        """Create A, B_i = 0, L_t = 1 and random weights."""
        made: dict[str, Any] = {"device": self.adapter_device, "dtype": torch.float32}
        first = torch.empty(config.r, input_width(self, site.name), **made)
        weights = torch.empty(config.n_tasks, config.n_up, **made)
        nn.init.kaiming_uniform_(first, a=math.sqrt(5))
        nn.init.kaiming_uniform_(weights, a=math.sqrt(5))
        own = torch.eye(config.r, **made).repeat(config.n_tasks, 1, 1)
        second = torch.zeros(config.n_up, output_width(self, site.name), config.r, **made)
        for name, tensor in zip(self.adapter_layer_names, (first, second, own, weights), strict=True):
            getattr(self, name)[adapter_name] = nn.Parameter(tensor)
        self.mtl_lora_config[adapter_name] = config

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped module and add every adapter's output for the task at hand."""
        x = first_input(args, kwargs).to(torch.float32)
        hidden: Tensor = self.base_layer(*args, **kwargs)
        for name in adapter_names:
            hidden = hidden + cast_like(self._added(name, x), hidden)
        return hidden

    def _added(self, name: str, x: Tensor) -> Tensor:
        config = self.mtl_lora_config[name]
        task = self._task(config).to(x.device)
        own = self.mtl_lora_own[name].index_select(0, task)[0]
        weights = self.mtl_lora_weights[name].index_select(0, task)[0]
        mixed = torch.einsum("n,nor->or", torch.softmax(weights / config.temperature, 0), self.mtl_lora_b[name])
        low = nn.functional.linear(nn.functional.linear(x, self.mtl_lora_a[name]), own)
        return config.alpha / config.r * nn.functional.linear(low, mixed)

    def _task(self, config: MtlLoraConfig) -> Tensor:
        """Return the number of the task at hand, shape [1].

        Raises:
            ValueError: There are several, and nobody said which.
        """
        ids: Tensor | None = self.__dict__.get("task_ids")
        if ids is None and config.n_tasks > 1:
            raise ValueError(f"mtl_lora was made for {config.n_tasks} tasks: call the model with task_ids")
        return torch.zeros(1, dtype=torch.long) if ids is None else ids[:1]
