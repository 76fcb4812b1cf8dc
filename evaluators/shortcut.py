"""A forward pass that begins at a later layer: those below are skipped, and stored states stand for what they gave.

The model's own code still runs around its layers, so masks, positions and whatever else it hands to a layer are made
anew for every batch, exactly as without a shortcut.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.dropout import drops_out
from evaluators.tuners.lst import LstLayer
from evaluators.tuners.shapes import innermost
from evaluators.tuners.streams import first_input, first_output
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy


class _Reached(Exception):  # noqa: N818  (no error: it ends a forward pass that has gone far enough)
    """Says that the last of the wanted states is there."""


class Shortcut:
    """Puts itself before the layers of one model, for as long as that model lives.

    Depths count layers from the bottom: the states of depth 2 are what the first two layers give.

    Args:
        model: Whose layers may be skipped.
        names: Of the modules of the layers, in the order in which the model runs them.
        entries: How many values each layer gives: 0 for a bare tensor, else the length of its tuple.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], entries: Sequence[int]) -> None:
        self._entries = tuple(entries)
        self._begin = 0
        self._states: Mapping[int, Tensor] = {}
        self._wanted: Collection[int] = ()
        self._found: dict[int, Tensor] = {}
        for number, name in enumerate(names):  # a weak reference, or dropped candidates would wait for the collector
            layer = innermost(model.get_submodule(name))
            layer.forward = partial(self._forward, number, weakref.ref(layer))

    @contextmanager
    def beginning(self, states: Mapping[int, Tensor]) -> Iterator[None]:
        """Skip layers inside the context, up to the highest of some depths.

        Args:
            states: What is given in the place of the layers, by depth, [batch, tokens, width]; empty: none is skipped.
        """
        self._begin, self._states = max(states, default=0), states
        try:
            yield
        finally:
            self._begin, self._states = 0, {}

    def states_after(
        self, depths: Collection[int], model: nn.Module, inputs: Mapping[str, Tensor]
    ) -> dict[int, Tensor]:
        """Run the model up to the highest of some depths and return the states of each, [batch, tokens, width]."""
        self._wanted, self._found = depths, {}
        try:
            model(**inputs)
        except _Reached:
            return self._found
        finally:
            self._wanted, self._found = (), {}
        raise UnsupportedError("its layers do not run in their order")

    def _forward(self, number: int, layer: weakref.ref[nn.Module], *args: Any, **kwargs: Any) -> Any:
        depth = number + 1
        if number >= self._begin:
            module: Any = layer()
            output = type(module).forward(module, *args, **kwargs)
            if depth in self._wanted:
                self._found[depth] = first_output(output)
                if depth == max(self._wanted):
                    raise _Reached
            return output
        states = self._states[depth] if depth in self._states else first_input(args, kwargs)
        entries = self._entries[number]
        return (states, *(None,) * (entries - 1)) if entries else states


class Course:
    """The order in which a bare model runs, watched once.

    Attributes:
        depth: Most layers that can be skipped: those of the first stack.
        entries: How many values each layer gives: 0 for a bare tensor, else the length of its tuple.
        places: For each module that runs, the number of layers that had begun when it first did; inside a layer,
            that layer's number.

    Raises:
        UnsupportedError: Its layers cannot be skipped; the message says why.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> None:
        self._layers = [block.name for block in anatomy.blocks]
        if not self._layers:
            raise UnsupportedError(f"{anatomy.architecture} has no layers that are known")
        self.depth = sum(block.stack == anatomy.blocks[0].stack for block in anatomy.blocks)
        self.places: dict[str, int] = {}
        self.entries: list[int] = []
        self._begun: list[str] = []
        with self._watching(model), torch.no_grad():
            model(**inputs)
        if self._begun != self._layers:
            raise UnsupportedError(f"the layers of {anatomy.architecture} do not run once each, in their order")

    @contextmanager
    def _watching(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            if name in self._layers:
                handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, _module: nn.Module, _args: Any) -> None:
        if name in self._layers:
            self._begun.append(name)
        inside = bool(self._begun) and f"{name}.".startswith(f"{self._begun[-1]}.")
        self.places.setdefault(name, len(self._begun) - inside)

    def _leave(self, module: nn.Module, _args: Any, output: Any) -> None:
        first_output(output)
        entries = len(output) if isinstance(output, tuple) else 0
        if entries and any(one is not None for one in output[1:]):
            raise UnsupportedError(f"a {type(module).__name__} gives more than hidden states to the next layer")
        self.entries.append(entries)

    def unchanged_layers(self, bare: nn.Module, model: nn.Module) -> int:
        """Return how many layers from the bottom compute in `model`, a copy of `bare`, what they compute there.

        All that runs before and inside them must be of the same kind over the same frozen tensors, without hooks of
        its own. 0 when something before the first layer differs. The rungs of a side network only read: they change
        what a layer gives where the network comes back, not what the layer computes.
        """
        now = self._as_bare(model)
        changed = (
            place
            for name, module in bare.named_modules()
            if (place := self.places.get(name)) is not None and not _same(module, now.get(name))
        )
        back = (number + 1 for number, rung in self._rungs(model).items() if rung.comes_back)
        return min([self.depth, *changed, *back])

    def depths_read(self, model: nn.Module, depth: int) -> tuple[int, ...]:
        """Return the depths whose states a model needs to begin at one: that, and those that its side networks read."""
        rungs = {number: rung for number, rung in self._rungs(model).items() if number < depth}
        below = {number for number, rung in rungs.items() if rung.lst_first and number}
        return tuple(sorted({depth, *below, *(number + 1 for number in rungs)}))

    def _rungs(self, model: nn.Module) -> dict[int, LstLayer]:
        """Return the rungs of side networks by the number of the layer that they stand around."""
        stands = ((number, model.get_submodule(name)) for number, name in enumerate(self._layers[: self.depth]))
        return {number: module for number, module in stands if isinstance(module, LstLayer)}

    def _as_bare(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the modules of a model by their names in the bare one, without the rungs of side networks."""
        now = dict(model.named_modules())
        for number in self._rungs(model):
            name = self._layers[number]
            inside = f"{name}.base_layer"
            now |= {name + one.removeprefix(inside): now[one] for one in now if f"{one}.".startswith(f"{inside}.")}
        return now

    def may_drop_out(self, model: nn.Module, depth: int) -> bool:
        """Whether a dropout below a depth is on while the model trains."""
        dropping = (name for name, one in self._as_bare(model).items() if drops_out(one))
        return any(self.places.get(name, depth) < depth for name in dropping)


def _same(one: nn.Module, other: nn.Module | None) -> bool:
    """Whether two modules are one kind over the same frozen tensors; what stands inside them is not looked at."""
    if other is None or type(one) is not type(other) or one._modules.keys() != other._modules.keys():
        return False
    if any(len(getattr(one, hooks)) != len(getattr(other, hooks)) for hooks in _HOOKS):
        return False
    return all(
        mine.keys() == theirs.keys() and all(map(_same_tensor, mine.values(), theirs.values()))
        for mine, theirs in ((one._parameters, other._parameters), (one._buffers, other._buffers))
    )


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _same_tensor(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    same = (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
        other.dtype,
    )
    return same and not other.requires_grad
