"""Operations whose answer depends on values, on fake tensors, which have none: answered as for the batches of a study.

What stands for a batch is its shape, so each answer is what is true of every batch, and where that is not one thing,
what takes the most memory:

- What a model fills with ones is full of ones. Any other mask is neither empty nor full; a count of steps is not 0.
- A number that is drawn between 0 and 1, to leave a whole module out now and then, leaves it in.
- A mask along one axis takes all of it.
- Rows that are counted agree: models that read a text at its end token (T5, BART) refuse batches where they do not.
- A mask that was made by comparing tokens with one number takes one token of each text, its end. Pairs of texts have
  two or three: so many vectors more, beside those of all tokens in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_ATEN = torch.ops.aten
_DRAWN = 1.0 - 2.0**-24


class UnknownValues:
    """Runs operations, and answers those on fake tensors that need values."""

    def __init__(self) -> None:
        self._ends: Any = WeakIdKeyDictionary()
        self._filled: Any = WeakIdKeyDictionary()  # storages of one number, so that views of them have it too

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what an operation gives."""
        if func is _ATEN._local_scalar_dense.default and not has_values(args[0]):
            return self._number(args[0])
        if func is _ATEN.unique_consecutive.default and not has_values(args[0]):
            return args[0].new_empty(1), *(args[0].new_empty(0, dtype=torch.long) for _ in range(2))
        if func is _ATEN.index.Tensor:
            args = (args[0], [one for index in args[1] for one in self._places(index)])
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and not has_values(out):
            self._note(func, args, out)
        return out

    def _number(self, tensor: Tensor) -> Any:
        known = self._filled.get(tensor.untyped_storage())
        if known is not None:
            return known
        return False if tensor.dtype == torch.bool else 1.0

    def _note(self, func: Any, args: Any, out: Tensor) -> None:
        """Take note of what is known of a result."""
        if func is _ATEN.eq.Scalar and not args[0].is_floating_point():
            self._ends[out] = True
        if func._schema.is_mutable:
            self._filled.pop(out.untyped_storage(), None)
        elif (number := self._filling(func, args)) is not None:
            self._filled[out.untyped_storage()] = number

    def _filling(self, func: Any, args: Any) -> float | None:
        """Return the number that all of a new tensor has; None where it is not known."""
        if func is _ATEN.ones.default:
            return 1
        if func is _ATEN.rand.default and prod(args[0]) == 1:
            return _DRAWN
        known = self._filled.get(args[0].untyped_storage()) if args and isinstance(args[0], Tensor) else None
        if known is None:
            return None
        if func is _ATEN._to_copy.default:
            return known
        if func is _ATEN.sum.default:
            return known * args[0].numel()
        if func is _ATEN.gt.Scalar:
            return known > args[1]
        return known == args[1] if func is _ATEN.eq.Scalar else None

    def _places(self, index: Tensor | None) -> Sequence[Tensor | None]:
        """Return indices in the place of a mask whose values nobody knows."""
        if index is None or index.dtype != torch.bool or has_values(index):
            return [index]
        if index.ndim == 1:
            return [torch.arange(len(index), device=index.device)]
        if index.ndim == 2 and index in self._ends:
            rows = torch.arange(len(index), device=index.device)
            return [rows, torch.zeros_like(rows)]
        return [index]


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor is a real one."""
    return tensor.device.type != "meta" and type(tensor) in (Tensor, nn.Parameter)
