"""Which of several tasks the examples at hand belong to, and what in a model turns with it.

A model of several tasks takes `task_ids`, [examples], beside its other inputs; all examples of a batch are of one task.
A hook before its forward pass takes them away, so that the model's own code never sees them, and turns what was put
on the model: the adapters of that task are switched on and those of others off, and layers that are one for all tasks
are told the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.poly.layer import PolyLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from evaluators.tuners.wrapping import WrappingLayer

_TASKS = "paretune_tasks"
_SWITCH = "paretune_switch"


def with_tasks(config: Any, tasks: int) -> Any:
    """Note in a model's configuration how many tasks the model is for, where there are several."""
    if tasks > 1:
        setattr(config, _TASKS, tasks)
    return config


def tasks_of(model: nn.Module) -> int:
    """Return how many tasks a model is for."""
    return int(getattr(getattr(model, "config", None), _TASKS, 1))


def take_tasks(model: nn.Module) -> None:
    """Let a model of several tasks take `task_ids`. What is put on a copy of it turns with them."""
    if tasks_of(model) > 1:
        model.register_forward_pre_hook(_taken, with_kwargs=True)


def _taken(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ids = kwargs.pop("task_ids", None)
    _turn(model, ids)
    return args, kwargs


def _turn(model: nn.Module, ids: Tensor | None) -> None:
    switch: TaskSwitch | None = getattr(model, _SWITCH, None)
    if switch is not None and ids is not None:
        switch.turn(ids)


@dataclass(frozen=True)
class TaskSwitch:
    """What turns with the task.

    Attributes:
        adapters: For each layer with adapters of single tasks, those that are on for each task.
        layers: Layers that are one for all tasks and are told the number.
    """

    adapters: tuple[tuple[BaseTunerLayer, tuple[list[str], ...]], ...]
    layers: tuple[nn.Module, ...]

    def turn(self, ids: Tensor) -> None:
        """Turn to the task of a batch.

        Args:
            ids: Numbers of the tasks, [examples], all alike. Fake ones, which say nothing, change nothing.
        """
        if isinstance(ids, FakeTensor):
            return
        if self.adapters:
            number = int(ids[0])
            for layer, names in self.adapters:
                layer._active_adapter = names[number]
        for layer in self.layers:
            layer.__dict__["task_ids"] = ids


def connect(model: nn.Module, base: nn.Module, own: Mapping[str, int]) -> None:
    """Let what was put on a model turn with the task.

    Args:
        model: What is called: the base model itself, or a prompt around it.
        base: The copy of the backbone.
        own: Names of the adapters that belong to one task each, with its number.
    """
    tasks = tasks_of(base)
    if tasks < 2:
        return
    tuned = [module for module in base.modules() if isinstance(module, BaseTunerLayer)]
    adapters = tuple(
        (layer, tuple(_on_for(number, layer, own) for number in range(tasks)))
        for layer in tuned
        if own.keys() & set(layer._get_available_adapters())
    )
    layers = tuple(layer for layer in tuned if isinstance(layer, PolyLayer) or _is_told(layer))
    for layer in layers:
        if isinstance(layer, PolyLayer):
            layer.register_forward_pre_hook(_told, with_kwargs=True)
    switch = TaskSwitch(adapters, layers)
    base.__dict__[_SWITCH] = switch
    switch.turn(torch.zeros(1, dtype=torch.long))
    if isinstance(model, PeftModel):
        model.__dict__[_SWITCH] = switch
        model.register_forward_pre_hook(_read, with_kwargs=True)


def _on_for(task: int, layer: BaseTunerLayer, own: Mapping[str, int]) -> list[str]:
    return [name for name in sorted(layer._get_available_adapters()) if own.get(name, task) == task]


def _is_told(layer: BaseTunerLayer) -> bool:
    return isinstance(layer, WrappingLayer) and layer.told_tasks


def _read(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Turn with a prompt around the model, which takes the numbers itself and does not hand them on."""
    _turn(model, kwargs.get("task_ids"))


def _told(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give a layer of peft's Poly the numbers of the tasks, one for each example that it sees."""
    ids = layer.__dict__["task_ids"]
    return args, {**kwargs, "task_ids": ids[:1].expand(len(args[0]))}
