"""The blocks of a side network, and what they need to know of the backbone's attention."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space.errors import UnsupportedError

_FEED_FORWARD_RATIO = 4


@dataclass(frozen=True)
class Visibility:
    """Which tokens see which.

    Attributes:
        mask: Boolean or additive mask that broadcasts to [batch, heads, queries, keys]; without one all are seen.
        causal: Whether, without a mask, tokens see only those before them.
    """

    mask: Tensor | None
    causal: bool


class SideBlock(nn.Module):
    """A pre-norm transformer block of small width, with or without attention, in float32."""

    def __init__(self, width: int, heads: int | None, device: torch.device) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, device=device, dtype=torch.float32)

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(width, device=device, dtype=torch.float32)

        self.heads = heads
        if heads is not None:
            self.attention_norm, self.qkv, self.mix = norm(), linear(width, 3 * width), linear(width, width)
        self.norm, self.up = norm(), linear(width, _FEED_FORWARD_RATIO * width)
        self.down = linear(_FEED_FORWARD_RATIO * width, width)

    def forward(self, x: Tensor, visibility: Visibility) -> Tensor:
        """Return the block's output for x of shape [batch, tokens, width]."""
        if self.heads is not None:
            x = x + self._attend(self.attention_norm(x), self.heads, visibility)
        fed: Tensor = self.down(functional.gelu(self.up(self.norm(x))))
        return x + fed

    def _attend(self, x: Tensor, heads: int, visibility: Visibility) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mask = visibility.mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        seen = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and visibility.causal
        )
        mixed: Tensor = self.mix(seen.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


def visibility_of(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Visibility:
    """Return which tokens see which in a layer of the backbone, from how it is called.

    Raises:
        UnsupportedError: It is called with a filled key-value cache, or with a mask of an unknown kind.
    """
    forward = type(layer).forward  # the layer's own may be replaced by one that skips it
    called = inspect.signature(forward).bind_partial(layer, *args, **kwargs).arguments
    called = {**called, **called.get("kwargs", {})}
    _refuse_cache(layer, called.get("past_key_values"))
    causal = any(getattr(module, "is_causal", False) is True for module in layer.modules())
    return Visibility(_four_axes(called.get("attention_mask")), causal)


def _refuse_cache(layer: nn.Module, cache: Any) -> None:
    index = next((module.layer_idx for module in layer.modules() if hasattr(module, "layer_idx")), 0)
    if cache is not None and cache.get_seq_length(index):
        raise UnsupportedError(
            "lst: the side network's attention keeps no key-value cache; generate with use_cache=False, "
            "or choose side_block='feed_forward'"
        )


def _four_axes(mask: Any) -> Tensor | None:
    if isinstance(mask, Tensor) and mask.ndim == 4:
        return mask if mask.is_floating_point() else mask.bool()
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, None, None, :].bool()
    raise UnsupportedError(
        f"lst: the backbone's layers are called with an attention mask that is {type(mask).__name__}; load it with "
        "attn_implementation='sdpa' or 'eager'"
    )
