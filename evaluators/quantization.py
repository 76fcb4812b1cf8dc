"""Backbones with quantised weights: bitsandbytes' 8-bit integers (Dettmers et al. 2022) and NF4 (Dettmers et al. 2023).

Only the frozen linear weights are quantised; the head, the adapters and the optimiser stay as they are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from search_space.errors import UnsupportedError

_NF4_BLOCK = 64  # weights that share one float32 scale
_NF4_BYTES = 0.5 + 4 / _NF4_BLOCK


def quantization_config(kind: str, dtype: torch.dtype, heads: Sequence[str]) -> Any:
    """Return what transformers loads a quantised model with, or None for `none`.

    Args:
        kind: `none`, `int8` or `nf4`.
        dtype: Type of the arithmetic.
        heads: Modules that are not quantised.

    Raises:
        UnsupportedError: bitsandbytes is not installed.
    """
    if kind == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnsupportedError(f"model.quantization: {kind} needs bitsandbytes; pip install 'paretune[quantization]'")
    bits = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return transformers.BitsAndBytesConfig(**bits, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(heads))


def saved_bytes(model: nn.Module, kind: str, dtype: torch.dtype, heads: Sequence[str]) -> int:
    """Return how many bytes fewer the quantised weights take than in `dtype`."""
    if kind == "none":
        return 0
    skipped = tuple(f"{name}." for name in heads)
    names = {name: module for name, module in model.named_modules() if not f"{name}.".startswith(skipped)}
    weights = [module.weight for module in names.values() if isinstance(module, nn.Linear)]
    return int(sum(_saving(weight, kind, dtype.itemsize) for weight in weights))


def _saving(weight: Tensor, kind: str, itemsize: int) -> float:
    each = 1.0 if kind == "int8" else _NF4_BYTES
    scales = 4 * weight.shape[0] if kind == "int8" else 0
    return weight.numel() * (itemsize - each) - scales


def settle(model: nn.Module) -> None:
    """Run one token through a quantised model: bitsandbytes lays weights out for the device at their first use."""
    device = next(model.parameters()).device
    with torch.no_grad():
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device))


def hidden_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors of quantised layers that are neither parameters nor buffers: 8-bit weights and their scales."""
    for module in model.modules():
        state = vars(module).get("state")
        if state is not None and hasattr(state, "CB"):
            yield from (value for value in vars(state).values() if isinstance(value, Tensor))


def is_bookkeeping(name: str) -> bool:
    """Whether an entry of a state dict says how a frozen weight is quantised; some are made anew each time."""
    return any(word in name for word in ("quant_state.bitsandbytes", "weight_format", ".SCB", "quant_map", ".absmax"))
