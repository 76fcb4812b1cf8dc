"""Attaching where there are shapes and no values: what peft's tuners need so that counts are right on `meta`.

Some types start from the values of the weights. Their sizes follow from the shapes alone, so on the `meta` device
they start from nothing instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.adamss import layer as adamss_layer
from peft.tuners.boft import layer as boft_layer
from peft.tuners.frod import model as frod_model
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tinylora.layer import TinyLoraLayer
from peft.tuners.unilora.model import UniLoraModel
from torch import Tensor, nn

_WITHOUT_MEMORY = ("BOFT", "C3A", "GLORA", "LILY", "PVERA", "RANDLORA")
"""Types that fill large tensors of their own, and read no value of them."""
_PROMPTS = ("CARTRIDGE", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_NOT_FILLED = (*_WITHOUT_MEMORY, *_PROMPTS, "GRALORA", "LOKR", "LORA", "LST", "MASK", "PEANUT", "QA_LORA")
"""Types whose initial values are filled in and not looked at while they are attached."""
_TAKE_RESIDUALS = ("pissa", "olora", "corda", "loftq")
"""How the starts of LoRA begin that change the frozen weight."""


def without_values(model: nn.Module, config: Any) -> Any:
    """Return the configuration for a model: on `meta`, with initial values that need no weights.

    Args:
        model: What it will be attached to.
        config: A configuration of peft's, which is changed.
    """
    if not is_bare(model):
        return config
    if config.peft_type == "LORA":
        config.init_lora_weights = True
    if config.peft_type == "SHIRA":
        config.mask_fn = None  # the places; their number is known
    return config


def set_residuals_apart(model: nn.Module, name: str) -> None:
    """Give the weights under LoRAs tensors of their own on `meta`: where the start takes its part out of them.

    PiSSA and its like train a part of the weight and keep the rest of it beside the backbone's.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            weight = module.get_base_layer().weight
            weight.data = torch.empty_like(weight.data)


def takes_residuals(model: nn.Module, config: Any) -> bool:
    """Whether a configuration changes frozen weights at its start, on a model that has none."""
    start = getattr(config, "init_lora_weights", None)
    return (
        is_bare(model) and config.peft_type == "LORA" and isinstance(start, str) and start.startswith(_TAKE_RESIDUALS)
    )


@contextmanager
def shapes_alone(model: nn.Module, peft_type: str) -> Iterator[None]:
    """Within it, what peft would find in the weights of a model on `meta` is made of their shapes.

    AdaMSS clusters the rows of each weight: evenly here. TinyLoRA decomposes each weight, and FRoD all of them jointly:
    into tensors of the same shapes here. FourierFT and WaveFT draw places among all entries of a weight, which takes
    longer than all the rest: the first one here. How many parameters they train does not depend on it. BOFT writes out
    permutations as matrices, RandLoRA draws full bases, and C3A, GLoRA, Lily and PVeRA fill what is as large as a
    weight or is replaced at once: without memory here. Types that only fill their tensors leave them as they are.

    Args:
        model: What something is attached to.
        peft_type: Its type.
    """
    bare = is_bare(model)
    made_of_shapes = _made_for(peft_type) if bare else {}
    found = {(owner, name): vars(owner).get(name) or getattr(owner, name) for owner, name in made_of_shapes}
    try:
        for (owner, name), made in made_of_shapes.items():
            setattr(owner, name, made)
        with torch.device("meta") if bare and peft_type in _WITHOUT_MEMORY else nullcontext():
            yield
    finally:
        for (owner, name), original in found.items():
            setattr(owner, name, original)


def _as_it_is(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stand for the functions of `torch.nn.init`: nothing is filled in."""
    return tensor


def _first(count: int, **_: Any) -> Tensor:
    """Stand for `torch.randperm`: as many numbers, all of them 0 and in one place of memory."""
    return torch.zeros((), dtype=torch.long).expand(count)


def freeze_constants(model: nn.Module) -> None:
    """Freeze what AdaLoRA keeps as a parameter and never trains: the number of ranks of a layer."""
    for module in model.modules():
        if isinstance(module, AdaLoraLayer):
            module.ranknum.requires_grad_(False)


def is_bare(model: nn.Module) -> bool:
    """Whether a model has shapes and no values."""
    return any(parameter.is_meta for parameter in model.parameters())


def _directions(weight: Tensor, r: int, device: Any, dtype: torch.dtype, **_: Any) -> tuple[Tensor, Tensor]:
    """Stand for `peft.tuners.adamss.utils.slice_pca`: shapes [1, 1, r, columns] and [1, 1, rows, r]."""
    rows, columns = weight.shape[-2:]
    kept = min(r, rows, columns)
    made = {"dtype": dtype, "device": device}
    return torch.empty(1, 1, kept, columns, **made), torch.empty(1, 1, rows, kept, **made)


def _clusters(rows: Tensor, clusters: int, _iterations: int) -> tuple[Tensor, int]:
    """Stand for `peft.tuners.adamss.utils.clustering_Z`: as many clusters, of equal size."""
    number = min(clusters, len(rows))
    return torch.arange(len(rows)) % number, number


def _low_rank(matrix: Tensor, q: int = 6, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Stand for `torch.svd_lowrank`: shapes [rows, q], [q] and [columns, q]."""
    rows, columns = matrix.shape[-2:]
    return matrix.new_empty(rows, q), matrix.new_empty(q), matrix.new_empty(columns, q)


def _indices(count: int, _vector: int, _seed: int) -> Tensor:
    """Stand for `UniLoraModel.generate_index` of peft: the first number of the vector, everywhere."""
    return torch.zeros(count, dtype=torch.long)


def _projections(tuner: Any, config: Any, adapter_name: str) -> None:
    """Stand for `FrodModel._init_frod_projections` of peft: a basis and a pattern for each kind of module."""
    tuner.frod_V, tuner.frod_s_indices, tuner.frod_s_size = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
    for name, module in tuner.model.named_modules():
        if not tuner._check_target_module_exists(config, name):
            continue
        width, kind = module.in_features, frod_model._category_from_key(name)
        if kind in tuner.frod_V and len(tuner.frod_V[kind][adapter_name]) != width:
            raise ValueError(f"modules of the kind {kind} have inputs of {width} and of other widths")
        entries = min(max(1, int(width * width * config.sparse_rate)), width * (width - 1))
        for held, tensor in (
            (tuner.frod_V, torch.empty(width, width)),
            (tuner.frod_s_indices, torch.zeros(2, entries, dtype=torch.long)),
            (tuner.frod_s_size, torch.tensor([width, width])),
        ):
            held[kind] = BufferDict({adapter_name: tensor}, persistent=config.save_projection)


def _scales(_layer: Any, basis: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Stand for `peft.tuners.frod.layer.FrodLayer._calculate_frod_u_and_lambda`: [rows, columns] and [columns]."""
    return torch.empty(weight.shape[0], basis.shape[0]), torch.empty(basis.shape[0])


def _factors(layer: Any, adapter_name: str, r: int, fan_in_fan_out: bool) -> None:
    """Stand for `TinyLoraLayer._init_svd` of peft: factors of [kept, columns] and [rows, kept] of a weight."""
    weight = layer.get_base_layer().weight
    rows, columns = reversed(weight.shape) if fan_in_fan_out else weight.shape
    layer.r[adapter_name] = kept = min(r, rows, columns)
    layer.tinylora_A[adapter_name] = weight.new_empty(kept, columns)
    layer.tinylora_B[adapter_name] = weight.new_empty(rows, kept)


def _permuted(_layer: Any, n: int, b: int, r: int = 3, n_butterfly_factor: int = 1) -> Tensor:
    """Stand for `block_butterfly_perm` of peft's BOFT layers: no permutation, refused where theirs is."""
    if n_butterfly_factor and b * r * 2 > n:
        raise ValueError("Invalid number of blocks!")
    return torch.empty(n)


def _as_matrix(_layer: Any, indices: Tensor) -> Tensor:
    """Stand for `perm2mat` of peft's BOFT layers: a matrix of no permutation."""
    return torch.empty(len(indices), len(indices))


def _move_adapter(layer: Any, adapter_name: str, device: Any = None) -> None:
    """Stand for `LoraLayer._move_adapter_to_device_of_base_layer` of peft: to `meta`, whatever else the layer has."""
    weight = layer.get_base_layer().weight
    for name in (*layer.adapter_layer_names, *layer.other_param_names):
        held = getattr(layer, name, None)
        if isinstance(held, nn.ModuleDict | nn.ParameterDict) and adapter_name in held:
            held[adapter_name] = held[adapter_name].to(weight.device if device is None else device, weight.dtype)


_FOR_ALL: dict[tuple[Any, str], Callable[..., Any]] = {
    (torch, "randperm"): _first,
    (LoraLayer, "_move_adapter_to_device_of_base_layer"): _move_adapter,
}
_FOR_TYPE: dict[str, dict[tuple[Any, str], Any]] = {
    "ADAMSS": {
        (adamss_layer, "slice_pca"): _directions,
        (adamss_layer, "clustering_Z"): _clusters,
        (torch, "svd_lowrank"): _low_rank,
    },
    "FROD": {
        (frod_model.FrodModel, "_init_frod_projections"): _projections,
        (FrodLayer, "_calculate_frod_u_and_lambda"): _scales,
    },
    "TINYLORA": {(TinyLoraLayer, "_init_svd"): _factors},
    "UNILORA": {(UniLoraModel, "generate_index"): staticmethod(_indices)},
    "BOFT": {
        (boft_layer.BOFTLayer, "block_butterfly_perm"): _permuted,
        (boft_layer.BOFTLayer, "perm2mat"): _as_matrix,
    },
}
_UNFILLED: dict[tuple[Any, str], Callable[..., Any]] = {
    (nn.init, name): _as_it_is
    for name in ("uniform_", "normal_", "constant_", "ones_", "zeros_", "kaiming_uniform_", "kaiming_normal_",
                 "xavier_uniform_", "xavier_normal_")
}  # fmt: skip


@cache
def _made_for(peft_type: str) -> dict[tuple[Any, str], Any]:
    """Return what stands for peft's own where something of a type is attached, by the places of those."""
    return _FOR_ALL | _FOR_TYPE.get(peft_type, {}) | (_UNFILLED if peft_type in _NOT_FILLED else {})
