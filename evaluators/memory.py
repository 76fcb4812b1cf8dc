"""Peak memory of a training step: predicted before anything is trained, and measured after.

Both count the same thing: bytes of tensors alive at once, namely weights, what the forward pass keeps, gradients,
optimiser state and temporaries, without the interpreter and the libraries. The prediction runs the step with fake
CPU tensors, which have shapes but no memory; the measurement reads the allocator. On CUDA the real peak adds the
context, workspaces, rounding and fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from evaluators.attach import Attached
from evaluators.hooks import hooks_of
from evaluators.optimisation import build_optimiser, loss_of, update


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are alive while it is active, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self._known: Any = WeakIdKeyDictionary()
        self.now = 0
        self.peak = 0

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and not _has_values(args[0]):
            return False if args[0].dtype == torch.bool else 1.0  # masks are not empty, step counts not 0
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [_whole(index) for index in args[1]])
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self.add(one)
        return out


def predict_step_bytes(attached: Attached, dtype: torch.dtype, batch: int, length: int) -> int:
    """Predict the peak bytes of a training step.

    Args:
        attached: A candidate attached to a model on the `meta` device. It is used up: its tensors become fake ones.
        dtype: Type of the frozen weights.
        batch: Examples of a step.
        length: Tokens of the longest example.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        attached = _with_fake_tensors(attached, dtype)
        ids = torch.zeros((batch, length), dtype=torch.long)
        labels = torch.zeros((batch,), dtype=torch.long)
        live = LiveBytes()
        for tensor in _tensors(attached.model):
            live.add(tensor)
        with live:
            hooks_of(attached).assume()
            attached.model.train()
            optimiser = build_optimiser(attached)
            for _ in range(2):  # the second step has the optimiser's state from its start
                logits = attached.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                update(attached, optimiser, loss_of(logits, labels, 0.0), 1.0)
                del logits
        return live.peak


def measure_peak_bytes(
    model: nn.Module, state: Iterable[Tensor], step: Callable[[], object], device: torch.device
) -> int:
    """Measure the peak bytes of one training step by the allocator's own count.

    Args:
        model: What is trained.
        state: Tensors of the optimiser.
        step: Does one whole step; gradients must not exist before.
        device: Where.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return int(torch.cuda.max_memory_allocated(device))
    standing = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(model)}
    standing |= {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state}
    return sum(standing.values()) + _profiled_peak(step)


def _profiled_peak(step: Callable[[], object]) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = peak = 0
    for one in sorted(events, key=lambda one: one.start_ns()):
        now += one.nbytes()
        peak = max(peak, now)
    return peak


def _with_fake_tensors(attached: Attached, dtype: torch.dtype) -> Attached:
    """Put fake CPU tensors in the place of the meta ones; frozen floats get the backbone's type."""
    twins: dict[int, nn.Parameter] = {}

    def twin(parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in twins:
            frozen = not parameter.requires_grad and parameter.is_floating_point()
            tensor = torch.empty(parameter.shape, dtype=dtype if frozen else parameter.dtype)
            twins[id(parameter)] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
        return twins[id(parameter)]

    for module in attached.model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = twin(parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    parts = tuple(tuple(twin(parameter) for parameter in part) for part in attached.parts)
    return Attached(attached.model, attached.candidate, parts, tuple(twin(parameter) for parameter in attached.head))


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _whole(index: Tensor | None) -> Tensor | None:
    """Return an index that takes everything in place of a mask whose values nobody knows: the most it can take."""
    if index is None or index.dtype != torch.bool or index.ndim != 1 or _has_values(index):
        return index
    return torch.arange(len(index), device=index.device)


def _has_values(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and type(tensor) in (Tensor, nn.Parameter)
