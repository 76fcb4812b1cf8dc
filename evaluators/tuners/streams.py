"""Tensors on their way through a model: what goes into a block, what comes out, and taps between blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from evaluators.tuners.wrapping import Site, WrappingLayer
from search_space.errors import UnsupportedError


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states that a module was called with.

    Raises:
        UnsupportedError: It was called without a tensor.
    """
    named = (kwargs.get("hidden_states"), *kwargs.values())
    for value in (*args[:1], *named):
        if isinstance(value, Tensor):
            return value
    raise UnsupportedError("a module that an adapter reads from was called without hidden states")


def first_output(output: Any) -> Tensor:
    """Return the hidden states among what a module gave: its output, or the first entry of a tuple.

    Raises:
        UnsupportedError: There is no tensor in that place.
    """
    hidden = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(hidden, Tensor):
        raise UnsupportedError(f"an adapter was put on a module that gives {type(output).__name__}, not hidden states")
    return hidden


def with_first_output(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the output with its hidden states changed, in the dtype that they had."""
    hidden = first_output(output)
    changed = change(hidden).to(hidden.dtype)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


class InputTap(WrappingLayer):
    """Puts what a module is called with on a board, where an adapter elsewhere reads it. It changes nothing."""

    other_param_names = ("sites",)

    def _make_containers(self) -> None:
        self.sites: dict[str, list[Site]] = {}

    def add_adapter(self, adapter_name: str, config: Any, site: Site) -> None:
        """Note who reads here."""
        self.sites.setdefault(adapter_name, []).append(site)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Write the input down and call the module."""
        if not self.disable_adapters:
            for site in (site for sites in self.sites.values() for site in sites):
                site.shared.board[site.name] = first_input(args, kwargs)
        return self.base_layer(*args, **kwargs)

    def check_merge(self) -> None:
        """Leave the answer to the adapter that reads here."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Do nothing: there is nothing of its own in a tap."""
