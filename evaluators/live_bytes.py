"""Bytes of tensors alive, their peak, and the arithmetic done meanwhile: counted where operations are dispatched."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from evaluators.unknown_values import UnknownValues

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler says on standard error that it starts and stops
_CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
_HALVES = (torch.bfloat16, torch.float16)
_MOST_NUMBERS = 2**23
"""Larger products are not measured: what they copy is a small part of what is there."""


@dataclass(frozen=True)
class Span:
    """What happened between two marks.

    Attributes:
        change: Bytes alive at its end less those at its start.
        peak: Most bytes alive within, above those at its start.
        flops: Floating-point operations of its matrix products.
    """

    change: int = 0
    peak: int = 0
    flops: int = 0


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are alive while it is active, and their peak.

    Args:
        on_cpu: Whether what oneDNN copies for a matrix product in 16 bits counts as well.
    """

    def __init__(self, on_cpu: bool = True) -> None:
        super().__init__()
        self._on_cpu = on_cpu
        self._known: Any = WeakIdKeyDictionary()
        self._unknown = UnknownValues()
        self.now = 0
        self.peak = 0
        self.flops = 0
        self.spans: dict[str, Span] = {}
        self._start, self._highest, self._flops = 0, 0, 0

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self._rise()
        weakref.finalize(storage, self._drop, size)

    def mark(self, ended: str) -> None:
        """End a span, which began at the mark before, and keep it under a name."""
        self.spans[ended] = Span(self.now - self._start, self._highest - self._start, self.flops - self._flops)
        self._start = self._highest = self.now
        self._flops = self.flops

    def _drop(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self._unknown.run(func, args, kwargs or {})
        self.flops += _flops(func, args, kwargs or {}, out)
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self.add(one)
        self._rise(_cast_bytes(func, args) + (_product_bytes(func, args) if self._on_cpu else 0))
        return out

    def _rise(self, within: int = 0) -> None:
        """Take note of what is alive, and of bytes beside it that are there within one operation."""
        self.peak = max(self.peak, self.now + within)
        self._highest = max(self._highest, self.now + within)


def _cast_bytes(func: Any, args: Any) -> int:
    """Return the bytes of what an operation holds, beside its result, while it makes one type of operands of several.

    On a CPU an elementwise operation copies those that are not of the common type, as large as they are.
    """
    if torch.Tag.pointwise not in func.tags:
        return 0
    operands = [one for one in args if isinstance(one, Tensor) and one.is_floating_point()]
    if not operands:
        return 0
    common = max(one.element_size() for one in operands)
    return sum(one.numel() * common for one in operands if one.element_size() != common)


def _product_bytes(func: Any, args: Any) -> int:
    """Return the bytes that a matrix product in 16 bits holds beside its result on a CPU.

    oneDNN copies operands into blocks of a layout that its kernel likes, which no shape tells: it is measured, once for
    each product, where that is quickly done. In 32 bits nothing is copied.
    """
    if func not in _PRODUCTS:
        return 0
    operands = [one for one in args if isinstance(one, Tensor)]
    if any(one.dtype not in _HALVES for one in operands) or sum(one.numel() for one in operands) > _MOST_NUMBERS:
        return 0
    return _measured(func, tuple((tuple(one.shape), tuple(one.stride()), one.dtype) for one in operands))


@cache
def _measured(func: Any, operands: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]) -> int:
    with _disable_current_modes(), torch.no_grad():
        real = [torch.empty_strided(shape, stride, dtype=dtype).zero_() for shape, stride, dtype in operands]
        func(*real)
        kept: list[Tensor] = []
        peak = allocated_peak(lambda: kept.append(func(*real)))
    return max(0, peak - kept[0].untyped_storage().nbytes())


def allocated_peak(run: Callable[[], object]) -> int:
    """Return the most bytes that something allocates on the CPU while it runs, by the profiler's memory events."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:  # `torch.profiler` warns in torch 2.11
        run()
    events = [one for one in profile.kineto_results.events() if one.name() == "[memory]"]
    now = peak = 0
    for one in sorted(events, key=lambda one: one.start_ns()):
        now += one.nbytes()
        peak = max(peak, now)
    return peak


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the operations of a matrix product, two for each multiply-add; 0 for anything else."""
    count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
    if count is not None:
        return int(count(*args, **kwargs, out_val=out))
    name = func._overloadpacket.__name__
    if not name.startswith(_CPU_ATTENTION):
        return 0
    backward = name.endswith("backward")
    query, key = (args[1], args[2]) if backward else (args[0], args[1])
    product = 2 * prod(query.shape[:-1]) * key.shape[-2] * query.shape[-1]
    return (5 if backward else 2) * product  # forward: scores and values; backward: scores again, and four gradients
