"""Attaching where there are shapes and no values: what peft's tuners need so that counts are right on `meta`.

Some types start from the values of the weights. Their sizes follow from the shapes alone, so on the `meta` device
they start from nothing instead.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.adalora.layer import AdaLoraLayer
from torch import nn


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


def freeze_constants(model: nn.Module) -> None:
    """Freeze what AdaLoRA keeps as a parameter and never trains: the number of ranks of a layer."""
    for module in model.modules():
        if isinstance(module, AdaLoraLayer):
            module.ranknum.requires_grad_(False)
