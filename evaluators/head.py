"""The head of a candidate: drawn anew in tensors of its own, trainable, and float32 whatever the backbone is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from search_space.errors import UnsupportedError


def renew_head(model: nn.Module, heads: tuple[str, ...]) -> None:
    """Draw new values for the head, in tensors of its own.

    Args:
        model: The backbone's copy.
        heads: Names of the head's modules.

    Raises:
        UnsupportedError: A module of the head has parameters that nobody knows how to draw.
    """
    for name in heads:
        for module in model.get_submodule(name).modules():
            for parameter in module.parameters(recurse=False):
                parameter.data = torch.empty_like(parameter.data, dtype=torch.float32)
            _initialise(model, module)


def _initialise(model: Any, module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        if module.weight.is_meta:
            return
        deviation = getattr(model.config, "initializer_range", 0.02)
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif next(module.parameters(recurse=False), None) is not None:
        raise UnsupportedError(f"a head with a {type(module).__name__} cannot be initialised")


def free_head(model: nn.Module, heads: tuple[str, ...]) -> tuple[nn.Parameter, ...]:
    """Make the head trainable: peft's copy where it wrapped it, else the head itself."""
    wrapped = {id(wrapper): wrapper for wrapper in head_wrappers(model)}
    found: list[nn.Parameter] = []
    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    for name in heads:
        module = base.get_submodule(name)
        parameters: Iterable[nn.Parameter] = module.parameters()
        if id(module) in wrapped:
            parameters = module.get_submodule("modules_to_save").parameters()
        found.extend(parameters)
        nn.Module.register_forward_pre_hook(module, _to_float32)
    for parameter in found:
        parameter.requires_grad_(True)
    return tuple(found)


def _to_float32(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The head is float32 whatever the backbone is."""
    return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs)


def head_wrappers(model: nn.Module) -> list[nn.Module]:
    """Return peft's wrappers of what it trains a copy of."""
    return [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
