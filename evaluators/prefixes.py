"""Prefix tuning on some layers, or with a length for each: every layer attends to its own prefix only.

peft puts a prefix of one length before the keys and values of every layer. Here its encoder holds what the layers have,
and nothing else. The model sees a cache in which every layer is as long as the longest prefix, so that masks and
positions are as in peft. What a layer gives to its attention is its own prefix, and its mask is cut to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from search_space.candidate import Part
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy


class _Prefix(DynamicLayer):
    """The cache of a layer; it says that it is as long as the longest prefix, and gives its own."""

    def __init__(self, longest: int, own: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self._longest, self._own = longest, own

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._own is None:
            return key_states, value_states
        return torch.cat([self._own[0], key_states], dim=-2), torch.cat([self._own[1], value_states], dim=-2)

    def scale(self, share: Tensor) -> None:
        """Multiply the layer's own keys and values, if it has any."""
        if self._own is not None:
            self._own = self._own[0] * share, self._own[1] * share

    def get_seq_length(self) -> int:
        return self._longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._longest + query_length, 0


class _Ragged(nn.Module):
    """Takes the place of peft's embedding where lengths differ: [tokens, layers x 2 x width], zeros first."""

    def __init__(self, embedding: nn.Embedding, lengths: tuple[int, ...]) -> None:
        super().__init__()
        width, like = embedding.embedding_dim // len(lengths), embedding.weight
        self.rows = nn.ParameterList(
            nn.Parameter(torch.randn(length, width, device=like.device, dtype=like.dtype)) for length in lengths
        )

    @property
    def weight(self) -> Tensor:
        """All prefixes beside each other."""
        longest = max(len(rows) for rows in self.rows)
        return torch.cat([nn.functional.pad(rows, (0, 0, longest - len(rows), 0)) for rows in self.rows], dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the rows of some tokens, as an embedding does."""
        return nn.functional.embedding(tokens, self.weight)


def scale_prefix(layer: Any, share: Tensor) -> None:
    """Multiply the keys and the values of a layer's prefix in the cache by numbers of shape [batch, 1, 1, 1]."""
    if isinstance(layer, _Prefix):
        layer.scale(share)
    else:
        layer.keys, layer.values = layer.keys * share, layer.values * share


def restrict_prefix(model: PeftModel, lengths: Mapping[int, int], anatomy: Anatomy) -> None:
    """Give each layer a prefix of its own length, or none.

    Args:
        model: Prefix-tuned by peft, its configuration holding as many layers as are given and the greatest length.
        lengths: Length by layer, of the layers that have a prefix, ascending.
        anatomy: The backbone's.

    Raises:
        UnsupportedError: The backbone has two stacks, or layers that see a window of the text only.
    """
    config: Any = model.get_base_model().config
    windowed = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if windowed or len({block.stack for block in anatomy.blocks}) > 1:
        what = "layers that see a window only" if windowed else "an encoder and a decoder"
        raise UnsupportedError(
            f"prefix_tuning has one length on all layers of {anatomy.architecture}: it has {what}; leave its layers out"
        )
    longest = max(lengths.values())
    if set(lengths.values()) != {longest}:
        encoder: Any = model.prompt_encoder[model.active_adapter]
        encoder.embedding = _Ragged(encoder.embedding, tuple(lengths.values()))
    model.get_prompt = partial(_prompt, model.get_prompt, dict(lengths), anatomy.n_layers)
    for block in anatomy.blocks:
        if cut := longest - lengths.get(block.layer, 0):
            module: nn.Module = model.get_base_model().get_submodule(block.name)
            module.register_forward_pre_hook(partial(_cut_mask, cut, longest), with_kwargs=True)


def prefix_lengths(part: Part, layers: tuple[int, ...]) -> dict[int, int]:
    """Return the length of the prefix of each layer that has one."""
    given = part["num_virtual_tokens"]
    lengths = given if isinstance(given, tuple) else (given,) * len(layers)
    return {layer: int(length) for layer, length in zip(layers, lengths, strict=True)}


def _prompt(
    original: Callable[..., DynamicCache], lengths: dict[int, int], n_layers: int, *args: Any, **kwargs: Any
) -> DynamicCache:
    cached = zip(lengths.items(), original(*args, **kwargs).layers, strict=True)
    own = {layer: (one.keys[..., -length:, :], one.values[..., -length:, :]) for (layer, length), one in cached}
    cache = DynamicCache()
    cache.layers = [_Prefix(max(lengths.values()), own.get(layer)) for layer in range(n_layers)]
    return cache


def _cut_mask(
    cut: int, longest: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden = args[0] if args else kwargs["hidden_states"]
    without = partial(_without_prefix, cut, longest, hidden.shape[1])
    return tuple(map(without, args)), {name: without(one) for name, one in kwargs.items()}


def _without_prefix(cut: int, longest: int, tokens: int, one: Any) -> Any:
    """Return a mask without its first columns, and anything else as it is."""
    is_mask = isinstance(one, Tensor) and one.ndim == 4 and one.shape[-2:] == (tokens, longest + tokens)
    return one[..., cut:] if is_mask else one
