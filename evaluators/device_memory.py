"""What a device has to have for a predicted peak: on CUDA more than the tensors.

The model is simple, and each of its terms is a figure that its source documents:

- The context: code and state of the driver and of the libraries, outside torch's allocator. It differs between
  devices and drivers; 512 MiB is what an H100 or an A100 takes with the kernels of torch loaded.
- The workspace of cuBLAS: 32 MiB on Hopper, about 8 MiB before (torch's CUBLAS_WORKSPACE_CONFIG).
- Rounding: the allocator hands out multiples of 512 B and asks the driver for blocks of 2 MiB, or of 20 MiB for
  tensors from 1 to 10 MiB (c10/cuda/CUDACachingAllocator). So what it reserves ends on a whole block.
- Fragmentation and kernels that take other temporaries than the CPU's: not modelled. A factor on the tensors stands
  for them, which the user sees and may set, and which measured trials correct.

The attention is the fused one (flash), as `sdpa` chooses it on CUDA in 16 bits: it keeps no matrix of scores. The trace
runs its CPU twin, which keeps the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles

CONTEXT_BYTES = 512 * 2**20
WORKSPACE_BYTES = 32 * 2**20
_BLOCK_BYTES = 2 * 2**20
_LARGE_BLOCK_BYTES = 20 * 2**20
_ENOUGH = 3


def reserved_bytes(peak_bytes: float, factor: float = 1.0) -> int:
    """Return what torch's allocator reserves on CUDA for tensors of a predicted peak: `max_memory_reserved`."""
    needed = peak_bytes * factor + WORKSPACE_BYTES
    block = _LARGE_BLOCK_BYTES if needed > _LARGE_BLOCK_BYTES else _BLOCK_BYTES
    return int(-(-needed // block) * block)


def needed_bytes(peak_bytes: float, device: str, factor: float = 1.0) -> int:
    """Return what a device must have: on CUDA with context and reserve, elsewhere the tensors.

    Args:
        peak_bytes: Predicted peak of tensors.
        device: `cuda`, or another.
        factor: On the tensors.
    """
    if device != "cuda":
        return round(peak_bytes * factor)
    return CONTEXT_BYTES + reserved_bytes(peak_bytes, factor)


def most_tensor_bytes(limit: float, device: str) -> int:
    """Return the peak of tensors with which a device needs no more than a limit: `needed_bytes` read backwards.

    Args:
        limit: Bytes that there are.
        device: `cuda`, or another.
    """
    if device != "cuda":
        return int(limit)
    reserved = limit - CONTEXT_BYTES
    block = _LARGE_BLOCK_BYTES if reserved > _LARGE_BLOCK_BYTES else _BLOCK_BYTES
    return max(1, int(reserved // block * block) - WORKSPACE_BYTES)


def corrected_factor(factor: float, predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the factor that the trials measured so far call for.

    With fewer than three it stays as it is given. From then on it is the ninth decile of measured by predicted: one
    trial in ten may still need more.

    Args:
        factor: What is used before anything is measured.
        predicted: Predicted peaks of trials, above 0.
        measured: Their measured peaks.
    """
    ratios = [true / guess for guess, true in zip(predicted, measured, strict=True)]
    return quantiles(ratios, n=10, method="inclusive")[-1] if len(ratios) >= _ENOUGH else factor
