"""Tensors of a saved candidate: which they are, and the size of the safetensors file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluators.quantization import is_bookkeeping

_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_NAMES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Saved(NamedTuple):
    """A tensor of a saved candidate: what stands of it in the header of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of its values."""
        return _ITEM_BYTES[self.dtype] * prod(self.shape)


def file_bytes(saved: Iterable[Saved]) -> int:
    """Return the size of a safetensors file: eight bytes, a header of JSON padded to eight bytes, the tensors."""
    header, at = {}, 0
    for one in sorted(saved, key=lambda one: (-_ITEM_BYTES[one.dtype], one.dtype, one.name)):
        header[one.name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": (at, at + one.bytes)}
        at += one.bytes
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + at


def storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage; on `meta` there is no address to tell it."""
    return tensor.untyped_storage()._cdata


def own_tensors(model: nn.Module, known: frozenset[int]) -> list[tuple[list[str], Tensor]]:
    """Return the tensors of a state dict whose storage is not known, each with all of its names."""
    own: dict[tuple[int, int], tuple[list[str], Tensor]] = {}
    for name, tensor in model.state_dict().items():
        storage = storage_of(tensor)
        if tensor.numel() and storage not in known and not is_bookkeeping(name):
            own.setdefault((storage, tensor.storage_offset()), ([], tensor))[0].append(name)
    return list(own.values())


def saved_as(name: str, tensor: Tensor) -> Saved:
    """Return how a tensor is saved under a name."""
    return Saved(name, _NAMES[tensor.dtype], tuple(tensor.shape))


def by_place(model: nn.Module, known: frozenset[int], places: list[str]) -> dict[str, tuple[Saved, ...]]:
    """Return the own tensors of each place, by names that begin there; those of several places or none under ''."""
    found: dict[str, list[Saved]] = {place: [] for place in ("", *places)}
    for names, tensor in own_tensors(model, known):
        owners = {next((place for place in places if name.startswith(f"{place}.")), "") for name in names}
        owner = owners.pop() if len(owners) == 1 else ""
        found[owner].append(saved_as(names[0][len(owner) :], tensor))
    return {place: tuple(saved) for place, saved in found.items()}
