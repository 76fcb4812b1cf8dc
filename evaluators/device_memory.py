"""What a device has to have for a predicted peak: on CUDA more than the tensors.

The model is simple. Its terms were measured on an H100 with CUDA 13 (`python -m benchmarks.cuda`):

- The context: code and state of the driver and of the libraries, outside torch's allocator. It differs between
  devices and drivers, and grows as kernels are loaded: 750 to 880 MiB there.
- The workspaces of cuBLAS: 32 MiB on Hopper for each thread that computes, the way up's and the way back's; about
  8 MiB each on GPUs before (torch's CUBLAS_WORKSPACE_CONFIG).
- Temporaries of kernels that a CPU's have not: sums over many tokens in float32, copies for fused attention.
- Fragmentation: room between tensors that nothing fits into.
- Rounding: the allocator asks the driver for blocks of 2 MiB, or of 20 MiB for tensors from 1 to 10 MiB
  (c10/cuda/CUDACachingAllocator). So what it reserves ends on a whole block.

What all this gets wrong a factor on the tensors stands for, which the user sees and may set, and which measured trials
correct. The attention is the fused one, as `sdpa` chooses it on CUDA: it keeps no matrix of scores. The trace runs its
CPU twin, which keeps the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles

CONTEXT_BYTES = 832 * 2**20
WORKSPACE_BYTES = 64 * 2**20
TEMPORARY_BYTES = 96 * 2**20
FRAGMENTATION = 1.05
"""What is reserved for tensors, by what they take."""
_BLOCK_BYTES = 2 * 2**20
_LARGE_BLOCK_BYTES = 20 * 2**20
_BESIDE = WORKSPACE_BYTES + TEMPORARY_BYTES
_ENOUGH = 3


def reserved_bytes(peak_bytes: float, factor: float = 1.0) -> int:
    """Return what torch's allocator reserves on CUDA for tensors of a predicted peak: `max_memory_reserved`."""
    needed = peak_bytes * factor * FRAGMENTATION + _BESIDE
    block = _LARGE_BLOCK_BYTES if needed > _LARGE_BLOCK_BYTES else _BLOCK_BYTES
    return int(-(-needed // block) * block)


def tensor_bytes(reserved: float) -> float:
    """Return the peak of tensors for which so much is reserved: `reserved_bytes` read backwards, at least 1."""
    return max(1.0, (reserved - _BESIDE) / FRAGMENTATION)


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
    return int(tensor_bytes(reserved // block * block))


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
