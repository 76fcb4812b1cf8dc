"""Layers whose adapters are a change of the wrapped module's tensors, and so can be merged exactly.

Merging never writes to a tensor of the backbone. It puts a copy of the wrapped module in its place, which
shares every tensor except those that change.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from evaluators.tuners.wrapping import WrappingLayer
from search_space.errors import EvaluationError

Deltas = dict[str, Tensor]
"""Changes by the name of the tensor inside the wrapped module (`weight`, `bias`), in float32."""


class MergingLayer(WrappingLayer):
    """A wrapping layer that can fold its adapters into the wrapped module, and take them out again.

    A subclass says with `deltas` what one adapter adds to which tensor.
    """

    def check_merge(self) -> None:
        """Accept: the adapter is a change of the wrapped module's tensors."""

    def deltas(self, adapter_name: str) -> Deltas:
        """Return what this adapter adds to each tensor of the innermost module."""
        raise NotImplementedError

    def merged_into(self, module: nn.Module, adapter_name: str) -> nn.Module:
        """Return a copy of the innermost module with this adapter in it."""
        return with_deltas(module, self.deltas(adapter_name), sign=1)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold the adapters into a copy of the wrapped module.

        Args:
            safe_merge: Whether to refuse a merge whose result is not finite.
            adapter_names: Which adapters; the active ones by default.

        Raises:
            EvaluationError: `safe_merge` is set and the merged tensors hold NaN or infinity.
            UnsupportedError: The wrapped module cannot hold the change.
        """
        self.check_merge()
        present = self._get_available_adapters()
        for name in check_adapters_to_merge(self, adapter_names):
            if name in present:
                self._merge_one(name, safe_merge)

    def _merge_one(self, name: str, safe_merge: bool) -> None:
        with torch.no_grad():
            merged = self.merged_into(self.get_base_layer(), name)
        if safe_merge and not _is_finite(merged):
            raise EvaluationError("diverged", f"merging adapter {name!r} gives NaN or infinite weights")
        self._keep_original(name)
        self._set_innermost(merged)
        self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take every merged adapter out again; the last one out restores the very module that was wrapped."""
        while self.merged_adapters:
            self._unmerge_one(self.merged_adapters.pop())

    def _unmerge_one(self, name: str) -> None:
        original = self.__dict__["_originals"].pop(name)
        with torch.no_grad():
            current, deltas = self.get_base_layer(), self.deltas(name)
            untouched = _equal_tensors(self.merged_into(original, name), current)
            self._set_innermost(original if untouched else with_deltas(current, deltas, sign=-1))

    def _keep_original(self, name: str) -> None:
        self.__dict__.setdefault("_originals", {})[name] = self.get_base_layer()

    def _set_innermost(self, module: nn.Module) -> None:
        holder: nn.Module = self
        while hasattr(holder.base_layer, "base_layer"):
            holder = holder.base_layer  # type: ignore[assignment]
        holder.base_layer = module


def with_deltas(module: nn.Module, deltas: Deltas, sign: int) -> nn.Module:
    """Return a copy of the module that shares its tensors, except those that change, which are new.

    A tensor that the module does not have (a bias) is created from its delta alone.
    """
    result = sharing_copy(module)
    for name, delta in deltas.items():
        base = getattr(module, name, None)
        changed = sign * delta if base is None else (base.to(delta.dtype) + sign * delta).to(base.dtype)
        result._parameters[name] = nn.Parameter(_in_dtype_of(module, changed), requires_grad=False)
    return result


def sharing_copy(module: nn.Module) -> nn.Module:
    """Return a shallow copy: the same tensors and submodules, in dictionaries of its own."""
    result = copy.copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        result.__dict__[table] = dict(module.__dict__[table])
    return result


def _in_dtype_of(module: nn.Module, tensor: Tensor) -> Tensor:
    weight = getattr(module, "weight", None)
    floating = isinstance(weight, torch.Tensor) and weight.is_floating_point()
    return tensor.to(weight.dtype) if floating else tensor  # type: ignore[union-attr]


def _is_finite(module: nn.Module) -> bool:
    return all(
        bool(tensor.isfinite().all()) for tensor in module.parameters(recurse=False) if tensor.is_floating_point()
    )


def _equal_tensors(one: nn.Module, other: nn.Module) -> bool:
    first: dict[str, Any] = dict(one.named_parameters(recurse=False))
    second = dict(other.named_parameters(recurse=False))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
