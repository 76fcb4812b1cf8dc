"""Attaching where there are shapes and no values: what peft's tuners need so that counts are right on `meta`.

Some types start from the values of the weights. Their sizes follow from the shapes alone, so on the `meta` device
they start from nothing instead.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.lora.layer import LoraLayer
from torch import nn

_TAKE_RESIDUALS = ("pissa", "olora", "corda", "loftq")
"""How the starts of LoRA begin that change the frozen weight."""


def without_values(model: nn.Module, config: Any) -> Any:
    """Return the configuration for a model: on `meta`, with initial values that need no weights.

    Args:
        model: What it will be attached to.
        config: A configuration of peft's, which is changed.
    """
    if not any(parameter.is_meta for parameter in model.parameters()):
        return config
    if config.peft_type == "LORA":
        config.init_lora_weights = True
    return config


def set_residuals_apart(model: nn.Module, name: str) -> None:
    """Give the weights under LoRAs tensors of their own on `meta`: where the start takes its part out of them.

    PiSSA and its like train a part of the weight and keep the rest of it beside the backbone's.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            weight = module.get_base_layer().weight
            weight.data = torch.empty_like(weight.data)


def takes_residuals(model: nn.Module, config: Any) -> bool:
    """Whether a configuration changes frozen weights at its start, on a model that has none."""
    start = getattr(config, "init_lora_weights", None)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    return on_meta and config.peft_type == "LORA" and isinstance(start, str) and start.startswith(_TAKE_RESIDUALS)


def freeze_constants(model: nn.Module) -> None:
    """Freeze what AdaLoRA keeps as a parameter and never trains: the number of ranks of a layer."""
    for module in model.modules():
        if isinstance(module, AdaLoraLayer):
            module.ranknum.requires_grad_(False)
