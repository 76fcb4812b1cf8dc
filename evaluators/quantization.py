"""Backbones with quantised weights: by bitsandbytes or by torchao. Only the frozen linear weights are quantised.

`int8` and `nf4` are of bitsandbytes (Dettmers et al. 2022, 2023), `torchao_int8` and `torchao_int4` are weight-only
integers of torchao. The head, the adapters and the optimiser stay as they are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from evaluators import quantised_products
from search_space.errors import UnsupportedError

_NF4_BLOCK = 64  # weights that share one float32 scale
_INT4_GROUP = 32  # weights that share one scale and one zero point
_INT4_TILE = (8, 1024)  # what the outputs and inputs of a weight are padded to a multiple of for the CUDA kernel
_PACKAGES = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "torchao_int8": "torchao", "torchao_int4": "torchao"}

QUANTIZATIONS = tuple(_PACKAGES)
"""Kinds of quantised weights, as a study file says them."""


def quantization_config(kind: str, dtype: torch.dtype, heads: Sequence[str], device: torch.device) -> Any:
    """Return what transformers loads a quantised model with, or None for `none`.

    Args:
        kind: `none` or one of `QUANTIZATIONS`.
        dtype: Type of the arithmetic.
        heads: Modules that are not quantised.
        device: Where the model will run.

    Raises:
        UnsupportedError: The package that it needs is not installed.
    """
    if kind == "none":
        return None
    if not is_installed(kind):
        package = _PACKAGES[kind]
        raise UnsupportedError(f"model.quantization: {kind} needs {package}; pip install 'paretune[quantization]'")
    if _PACKAGES[kind] == "torchao":
        return transformers.TorchAoConfig(_torchao(kind, device), modules_to_not_convert=list(heads))
    bits = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return transformers.BitsAndBytesConfig(**bits, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(heads))


def is_installed(kind: str) -> bool:
    """Whether the package that quantises so is installed."""
    return importlib.util.find_spec(_PACKAGES[kind]) is not None


def kind_of(model: nn.Module) -> str:
    """Return how a model's frozen weights are quantised: `none` or one of `QUANTIZATIONS`."""
    config: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is None:
        return "none"
    if isinstance(config, transformers.TorchAoConfig):
        return "torchao_int8" if type(config.quant_type).__name__ == "Int8WeightOnlyConfig" else "torchao_int4"
    return "int8" if config.load_in_8bit else "nf4"


def _torchao(kind: str, device: torch.device) -> Any:
    from torchao import quantization as ao

    if kind == "torchao_int8":
        return ao.Int8WeightOnlyConfig()
    if device.type == "cuda":  # packed for its kernel
        return ao.Int4WeightOnlyConfig(group_size=_INT4_GROUP, int4_packing_format="tile_packed_to_4d")
    return ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(_INT4_GROUP))  # type: ignore[attr-defined]


def saved_bytes(model: nn.Module, kind: str, dtype: torch.dtype, heads: Sequence[str], device: torch.device) -> int:
    """Return how many bytes fewer the quantised weights take than in `dtype`."""
    if kind == "none":
        return 0
    skipped = tuple(f"{name}." for name in heads)
    names = {name: module for name, module in model.named_modules() if not f"{name}.".startswith(skipped)}
    weights = [module.weight for module in names.values() if isinstance(module, nn.Linear)]
    taken = _TAKEN[kind]
    return int(sum(weight.numel() * dtype.itemsize - taken(weight, dtype, device) for weight in weights))


def _nf4_bytes(weight: Tensor, _dtype: torch.dtype, _device: torch.device) -> float:
    return weight.numel() * (0.5 + 4 / _NF4_BLOCK)


def _int8_bytes(weight: Tensor, _dtype: torch.dtype, _device: torch.device) -> float:
    return weight.numel() + 4 * weight.shape[0]


def _torchao_int8_bytes(weight: Tensor, dtype: torch.dtype, _device: torch.device) -> float:
    return weight.numel() + weight.shape[0] * (dtype.itemsize + 1)


def _torchao_int4_bytes(weight: Tensor, dtype: torch.dtype, device: torch.device) -> float:
    """Count packed pairs of padded weights on CUDA, with scale and zero point; on a CPU a byte holds one weight."""
    if device.type == "cuda":
        outputs, inputs = (-(-size // tile) * tile for size, tile in zip(weight.shape, _INT4_TILE, strict=True))
        return outputs * inputs * (0.5 + 2 * torch.bfloat16.itemsize / _INT4_GROUP)
    return weight.numel() * (1 + (dtype.itemsize + 1) / _INT4_GROUP)


_TAKEN: Mapping[str, Callable[[Tensor, torch.dtype, torch.device], float]] = {
    "int8": _int8_bytes,
    "nf4": _nf4_bytes,
    "torchao_int8": _torchao_int8_bytes,
    "torchao_int4": _torchao_int4_bytes,
}


def settle(model: nn.Module) -> None:
    """Make a quantised model ready: bitsandbytes lays weights out for the device at their first use, so one is made."""
    quantised_products.free_of_inputs(model)
    _keep_unpacked(model)
    device = next(model.parameters()).device
    with torch.no_grad():
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device))


def _keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes' 4-bit weights as they are saved, on CPUs with AVX512-BF16 too.

    There it packs them anew for a kernel of theirs at the first forward pass in evaluation mode. No gradient goes
    through that kernel, in training neither, and adapters that read the weight cannot read it so.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def hidden_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors of quantised layers that are neither parameters nor buffers: 8-bit weights and their scales."""
    for module in model.modules():
        state = vars(module).get("state")
        if state is not None and hasattr(state, "CB"):
            yield from (value for value in vars(state).values() if isinstance(value, Tensor))


def dequantised(module: Any) -> Tensor:
    """Return the weight of a linear module in float32, as it stands for the one before quantisation."""
    weight = module.weight
    kind = type(weight).__name__
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        module.state_dict()  # lays the weight out as it is saved, which the next line reads
        found: Tensor = dequantize_4bit(weight.data, weight.quant_state)
        return found.float()
    if kind == "Int8Params":
        scales = weight.SCB if weight.SCB is not None else module.state.SCB
        return quantised_products.eight_bits(weight.data, scales, torch.float32)
    plain = quantised_products.dequantised(weight) if hasattr(weight, "__tensor_flatten__") else weight
    return plain.detach().float()


def stored_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold the bytes of one: itself, or what a quantised one of torchao is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from stored_tensors(getattr(tensor, name))


def is_bookkeeping(name: str) -> bool:
    """Whether an entry of a state dict says how a frozen weight is quantised; some are made anew each time."""
    return any(word in name for word in ("quant_state.bitsandbytes", "weight_format", ".SCB", "quant_map", ".absmax"))
