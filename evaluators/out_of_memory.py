"""Memory that runs out while a candidate is trained: told from other errors, and given back."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from search_space.errors import EvaluationError

_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "could not create a memory object",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",
)
"""How torch, its libraries and those of CUDA say that memory ran out."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the process or of its device; torch need not be loaded."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def out_of_memory_told(step: int) -> Iterator[None]:
    """Turn what is raised when memory runs out into an EvaluationError, and give back what the failed calls held.

    Args:
        step: Steps that were made before.

    Raises:
        EvaluationError: Memory ran out; the cause is `out_of_memory`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        failure = EvaluationError("out_of_memory", f"after step {step}: {error or 'the process has no more'}")
        _release(error)
        raise failure from None


def _release(error: BaseException) -> None:
    """Drop the tensors in the frames of an error and of those before it, then return torch's free blocks to the device.

    The EvaluationError keeps the error as its context, and with it all that its tracebacks hold.
    """
    import torch

    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None
        one = one.__context__
    torch.cuda.empty_cache()
