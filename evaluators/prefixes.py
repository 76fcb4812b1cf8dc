"""Prefix tuning on some layers: the others attend as if there were no prefix.

peft puts a prefix before the keys and values of every layer. Here its encoder holds the prefixes of the chosen layers
alone. The model sees a cache in which every layer is as long as the prefix, so that masks and positions are as in peft.
A layer without a prefix gives back its own keys and values only, and its mask is cut to them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from search_space.errors import UnsupportedError
from search_space.placement import Anatomy


class _NoPrefix(DynamicLayer):
    """The cache of a layer without a prefix; it says that it is as long as the others."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._length + query_length, 0


def restrict_prefix(model: PeftModel, layers: tuple[int, ...], anatomy: Anatomy) -> None:
    """Let the prefixes that a prefix-tuned model holds stand before some layers only.

    Args:
        model: Prefix-tuned by peft, its configuration holding as many layers as are given.
        layers: The layers that have a prefix, ascending.
        anatomy: The backbone's.

    Raises:
        UnsupportedError: The backbone has two stacks, or layers that see a window of the text only.
    """
    config: Any = model.get_base_model().config
    windowed = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if windowed or len({block.stack for block in anatomy.blocks}) > 1:
        what = "layers that see a window only" if windowed else "an encoder and a decoder"
        raise UnsupportedError(
            f"prefix_tuning goes into all layers of {anatomy.architecture} or none: it has {what}; leave its layers out"
        )
    length: int = model.active_peft_config.num_virtual_tokens
    model.get_prompt = partial(_prompt, model.get_prompt, length, layers, anatomy.n_layers)
    for block in anatomy.blocks:
        if block.layer not in layers:
            module: nn.Module = model.get_base_model().get_submodule(block.name)
            module.register_forward_pre_hook(partial(_cut_mask, length), with_kwargs=True)


def _prompt(
    original: Callable[..., DynamicCache],
    length: int,
    layers: tuple[int, ...],
    n_layers: int,
    *args: Any,
    **kwargs: Any,
) -> DynamicCache:
    prefixes = dict(zip(layers, original(*args, **kwargs).layers, strict=True))
    cache = DynamicCache()
    cache.layers = [prefixes[layer] if layer in prefixes else _NoPrefix(length) for layer in range(n_layers)]
    return cache


def _cut_mask(
    length: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden = args[0] if args else kwargs["hidden_states"]
    cut = partial(_without_prefix, length, hidden.shape[1])
    return tuple(map(cut, args)), {name: cut(one) for name, one in kwargs.items()}


def _without_prefix(length: int, tokens: int, one: Any) -> Any:
    """Return a mask without the columns of the prefix, and anything else as it is."""
    is_mask = isinstance(one, Tensor) and one.ndim == 4 and one.shape[-2:] == (tokens, length + tokens)
    return one[..., length:] if is_mask else one
