"""Hidden states on disk, memory-mapped: shared by all processes of a node that open the same file.

Not renamed into place as other files are: a file grows example by example, and a flag beside each says whether it is
there. The name carries the boot of the machine, so a file that a power cut left half-written is never read.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_BLOCK = 1 << 20


@cache
def boot() -> str:
    """Return what names this boot of this machine."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return uuid.UUID(int=uuid.getnode()).hex  # systems without /proc: the machine alone


@dataclass(frozen=True)
class Shape:
    """What a file holds.

    Attributes:
        lengths: Tokens of each example.
        width: Width of a state.
        dtype: Its type.
    """

    lengths: tuple[int, ...]
    width: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of all states."""
        return sum(self.lengths) * self.width * self.dtype.itemsize


class StateFile:
    """The states of the examples of one role, each without padding.

    Raises:
        OSError: There is no room on the disk.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path = path
        self.shape = shape
        self._starts = np.concatenate([[0], np.cumsum(shape.lengths)])
        _reserve(path, shape.size)
        _reserve(_flags(path), len(shape.lengths))
        tokens = int(self._starts[-1])
        with torch.inference_mode(False):  # a tensor of inference mode could not be written to outside of it
            flat = torch.from_file(str(path), shared=True, size=tokens * shape.width, dtype=shape.dtype)
            self._states = flat.view(tokens, shape.width)
        self._there: NDArray[np.uint8] = np.memmap(_flags(path), dtype=np.uint8, mode="r+")

    def lacking(self, indices: Sequence[int]) -> list[int]:
        """Return those of some examples that are not there yet."""
        there = self._there[np.asarray(indices)]
        return [index for index, one in zip(indices, there, strict=True) if not one]

    def write(self, indices: Sequence[int], states: Tensor) -> None:
        """Keep the states of some examples, [examples, tokens, width], padded on the right."""
        for index, rows in zip(indices, states.cpu(), strict=True):
            start, stop = self._starts[index], self._starts[index + 1]
            self._states[start:stop] = rows[: stop - start]
        self._there[np.asarray(indices)] = 1  # last: whoever sees the flag sees the states

    def read(self, indices: Sequence[int], width: int) -> Tensor:
        """Return the states of some examples, [examples, width, ...], padded with zeros on the right."""
        states = torch.zeros((len(indices), width, self.shape.width), dtype=self.shape.dtype)
        for row, index in enumerate(indices):
            start, stop = self._starts[index], self._starts[index + 1]
            states[row, : stop - start] = self._states[start:stop]
        return states


def make_room(folder: Path, wanted: Mapping[Path, int], limit: int, worth: Mapping[Path, int]) -> list[Path]:
    """Delete the files that are worth least until those that are wanted fit a folder's limit; returns them.

    Processes that have a deleted file open keep what they have.

    Args:
        folder: Where the files are.
        wanted: Bytes of each file that is to stay or to come.
        limit: Most bytes of all of them.
        worth: What each is worth; one that is not in it is worth nothing.
    """
    sizes = {one: _size(one) for one in folder.glob("*.states") if one not in wanted}
    gone = []
    for one in sorted(sizes, key=lambda one: worth.get(one, 0)):
        if sum(wanted.values()) + sum(sizes.values()) <= limit:
            break
        one.unlink(missing_ok=True)
        _flags(one).unlink(missing_ok=True)
        gone.append(one)
        del sizes[one]
    return gone


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process made room
        return 0


def _flags(path: Path) -> Path:
    return path.with_suffix(".there")


def _reserve(path: Path, size: int) -> None:
    """Give a file its size on the disk, so that writing to the mapped memory cannot fail later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.lseek(descriptor, 0, os.SEEK_END)
            while (missing := size - os.fstat(descriptor).st_size) > 0:
                os.write(descriptor, bytes(min(missing, _BLOCK)))
    finally:
        os.close(descriptor)
