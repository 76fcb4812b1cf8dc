"""Tensors of a saved candidate: which they are, and the size of the safetensors file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from json.encoder import encode_basestring_ascii
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


class Entry(NamedTuple):
    """A tensor in a safetensors file.

    Attributes:
        dtype: As the file names it.
        name: Its name.
        header: Length of what the header says of it, without the digits of where its values begin and end.
        bytes: Size of its values.
    """

    dtype: str
    name: str
    header: int
    bytes: int


def entry(saved: Saved, name: str) -> Entry:
    """Return how a tensor stands in a file under a name."""
    said, size = _said(saved.dtype, saved.shape)
    return Entry(saved.dtype, name, length_of(name) + len('""') + said, size)


def length_of(name: str) -> int:
    """Return how long a name, or a part of one, is in JSON."""
    return len(encode_basestring_ascii(name)) - len('""')


@cache
def _said(dtype: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the length of what a header says after a tensor's name, with the comma that follows, and its bytes."""
    said = json.dumps({"dtype": dtype, "shape": shape, "data_offsets": []}, separators=(",", ":"))
    return len(":") + len(said) + len(","), _ITEM_BYTES[dtype] * prod(shape)


def file_bytes(entries: Iterable[Entry]) -> int:
    """Return the size of a safetensors file: eight bytes, a header of JSON padded to eight bytes, the tensors."""
    by_type: dict[str, list[Entry]] = {}
    for one in entries:
        by_type.setdefault(one.dtype, []).append(one)
    header, at, count = len("{}"), 0, 0
    for dtype in sorted(by_type, key=lambda dtype: (-_ITEM_BYTES[dtype], dtype)):
        digits = len(str(at))
        for _, _, length, size in sorted(by_type[dtype]):
            at += size
            header += length + digits + (digits := len(str(at)))
        count += len(by_type[dtype])
    header += max(count - 1, 0) * len(",")
    return 8 + -(-header // 8) * 8 + at


def storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage; on `meta` there is no address to tell it."""
    return tensor.untyped_storage()._cdata


def own_tensors(model: nn.Module, known: frozenset[int]) -> list[tuple[list[str], Tensor]]:
    """Return the tensors of a state dict whose storage is not known, each with all of its names."""
    own: dict[tuple[int, int], tuple[list[str], Tensor]] = {}
    places: dict[int, tuple[int, int] | None] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in places:
            place = storage_of(tensor), tensor.storage_offset()
            places[id(tensor)] = place if tensor.numel() and place[0] not in known else None
        found = places[id(tensor)]
        if found is not None and not is_bookkeeping(name):
            own.setdefault(found, ([], tensor))[0].append(name)
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
