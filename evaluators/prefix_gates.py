"""UniPELT's gate on prefixes (Mao et al. 2022, section 3.3): a layer's input decides how much of its prefix counts.

The keys and values of a layer's prefix are multiplied by G = the mean over the text's tokens of sigmoid(w h + b), where
h is what the layer is given. Padding does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache

from evaluators.prefixes import scale_prefix
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy

Board = dict[str, Any]
"""What travels from the model's call to its layers within one forward pass: the cache and the mask."""


def gate_prefix(model: PeftModel, layers: tuple[int, ...], anatomy: Anatomy) -> None:
    """Give the prefix of each of these layers a gate, trained and kept with the prefix.

    Args:
        model: Prefix-tuned by peft.
        layers: The layers that have a prefix.
        anatomy: The backbone's.

    Raises:
        UnsupportedError: The backbone has two stacks.
    """
    if len({block.stack for block in anatomy.blocks}) > 1:
        raise UnsupportedError(f"a gated prefix needs a model of one stack, and {anatomy.architecture} has two")
    base: Any = model.get_base_model()
    encoder: Any = model.prompt_encoder[model.active_adapter]
    weight: Tensor = encoder.embedding.weight
    blocks = [block for block in anatomy.blocks if block.layer in layers]
    encoder.gates = nn.ModuleList(
        nn.Linear(block.hidden_size, 1, device=weight.device, dtype=torch.float32) for block in blocks
    )
    board: Board = {}
    model.get_prompt = partial(_kept, board, model.get_prompt)
    for called in (base, base.get_submodule(base.base_model_prefix)):  # peft calls one or the other
        called.register_forward_pre_hook(partial(_note_mask, board), with_kwargs=True)
    for block, gate in zip(blocks, encoder.gates, strict=True):
        opening = partial(_open, board, block.layer, gate)
        base.get_submodule(block.name).register_forward_pre_hook(opening, with_kwargs=True)


def _kept(board: Board, original: Callable[..., DynamicCache], *args: Any, **kwargs: Any) -> DynamicCache:
    board["cache"] = original(*args, **kwargs)
    return board["cache"]


def _note_mask(board: Board, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    board["mask"] = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _open(
    board: Board, number: int, gate: nn.Linear, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    opened = torch.sigmoid(gate(hidden.float())).squeeze(-1)
    mask = board["mask"]
    counted = torch.ones_like(opened) if mask is None else mask[:, -hidden.shape[1] :].to(opened.dtype)
    share = (opened * counted).sum(1) / counted.sum(1)
    scale_prefix(board["cache"].layers[number], share.to(hidden.dtype).view(-1, 1, 1, 1))
