"""Rows of numbers that grow by one at a time, as an array at any moment."""

from __future__ import annotations

import numpy as np

from orchestrator.dominance import FloatArray


class Rows:
    """Rows that are appended; memory doubles when it is full, so that n of them take a time that grows with n.

    Args:
        width: Numbers of a row.
    """

    def __init__(self, width: int) -> None:
        self._kept: FloatArray = np.empty((16, width), dtype=np.float64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, *row: float) -> None:
        """Append a row."""
        if self._count == len(self._kept):
            self._kept = np.concatenate([self._kept, np.empty_like(self._kept)])
        self._kept[self._count] = row
        self._count += 1

    @property
    def values(self) -> FloatArray:
        """The rows so far, shape [rows, width]: a view that later rows do not change."""
        return self._kept[: self._count]

    def copy(self) -> Rows:
        """Return rows that grow apart from these."""
        other = Rows(self._kept.shape[1])
        other._kept, other._count = self._kept.copy(), self._count
        return other
