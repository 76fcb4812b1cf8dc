"""One training step of a short model, run with fake tensors, cut at the borders of its layers.

Fake CPU tensors have shapes and no memory, so the trace costs what Python costs. Each layer gives what happens to
memory while it runs forward, while it runs backward, and while it runs in inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from evaluators.attach import Attached
from evaluators.backbone import checkpoint_activations
from evaluators.fake_tensors import fake_tensors
from evaluators.hooks import hooks_of
from evaluators.live_bytes import LiveBytes, Span
from evaluators.memory import Load, counting, give_gradients, inputs_of, tensors_of, with_fake_tensors
from evaluators.optimisation import loss_of, stepped_as_it_is
from evaluators.short_model import first_stack

_STEPPED_BYTES = 4
"""Steps are made in float32."""
_COUNT_BYTES = 4
"""AdamW counts its steps in one float for each tensor."""


@dataclass(frozen=True)
class Standing:
    """Tensors that are there all the time.

    Attributes:
        bytes: All of them.
        gradients: Those that are trained: as much as their gradients.
        masters: Their float32 copies, where they are of a lower precision.
        state: What AdamW keeps for them: two float32 numbers for each, and a count of steps for each tensor.
        update: Most that AdamW needs beside: two float32 copies of a tensor, and one of the tensor before it.
    """

    bytes: int = 0
    gradients: int = 0
    masters: int = 0
    state: int = 0
    update: int = 0

    def __add__(self, other: Standing) -> Standing:
        return Standing(
            self.bytes + other.bytes,
            self.gradients + other.gradients,
            self.masters + other.masters,
            self.state + other.state,
            max(self.update, other.update),
        )


@dataclass(frozen=True)
class Traced:
    """What one place costs: a layer, or what stands before or behind all layers.

    Attributes:
        standing: Its tensors.
        forward: The way up.
        backward: The way down.
        inference: The way up without gradients.
    """

    standing: Standing
    forward: Span
    backward: Span
    inference: Span

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Traced:
        """Read what `asdict` gave."""
        spans = (Span(**data[name]) for name in ("forward", "backward", "inference"))
        return cls(Standing(**data["standing"]), *spans)


@dataclass(frozen=True)
class Trace:
    """A short model's step.

    Attributes:
        stem: What stands before its layers.
        layers: Each of them.
        top: What stands behind them.
        middle: What stands between an encoder and a decoder; nothing where there is one stack.
    """

    stem: Traced
    layers: tuple[Traced, ...]
    top: Traced
    middle: Traced

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trace:
        """Read what `asdict` gave."""
        layers = tuple(map(Traced.from_json, data["layers"]))
        stem, top, middle = (Traced.from_json(data[name]) for name in ("stem", "top", "middle"))
        return cls(stem, layers, top, middle)


def trace(attached: Attached, blocks: list[str], dtype: torch.dtype, load: Load) -> Trace:
    """Trace the step of a candidate on a short model.

    Args:
        attached: On `meta`. It is used up: its tensors become fake ones.
        blocks: Names of the layers.
        dtype: Type of the frozen weights.
        load: The shape of the step.

    Raises:
        RuntimeError, IndexError, ValueError, TypeError: The model does not take such a step.
    """
    with fake_tensors():
        attached = with_fake_tensors(attached, dtype)
        base: nn.Module = attached.model
        if isinstance(base, PeftModel):
            base = base.get_base_model()
        modules = [base.get_submodule(name) for name in blocks]
        first = first_stack(blocks)
        standing = _standing(attached.model, modules)
        standing.insert(first + 1, Standing())
        hooks_of(attached).assume()
        inference = _inference(attached, modules, first, load)
        forward, backward = _training(attached, modules, first, load)
    places = [Traced(*every) for every in zip(standing, forward, backward, inference, strict=True)]
    middle = places.pop(first + 1)
    return Trace(places[0], tuple(places[1:-1]), places[-1], middle)


def _training(attached: Attached, modules: list[nn.Module], first: int, load: Load) -> tuple[list[Span], list[Span]]:
    live = counting(attached.model, load)
    if load.accumulated:
        give_gradients(one for one in attached.trainable if stepped_as_it_is(one))
    attached.model.train()
    if load.checkpointing:
        checkpoint_activations(attached.model)
    with _borders(modules, first, live) as borders, live:
        live.mark("")
        logits = attached.model(**inputs_of(attached.model, load.batch, load.length)).logits
        loss = hooks_of(attached).penalised(loss_of(logits, torch.zeros((load.batch,), dtype=torch.long), 0.0))
        del logits
        live.mark("up top")
        borders.forward = False
        loss.backward()
        live.mark("end")
    return _up(live.spans, len(modules)), _down(live.spans, len(modules), first)


def _up(spans: Mapping[str, Span], count: int) -> list[Span]:
    """Return the spans of the way up, the stem's first, that between two stacks in its place."""
    return [spans.get(f"up {place}", Span()) for place in (*range(count + 2), "top")]


def _down(spans: Mapping[str, Span], count: int, first: int) -> list[Span]:
    """Return the spans of the way down, the stem's first; of what is not reached an empty one.

    The last span goes to where the gradients of activations end: to the lowest layer that is trained.
    """
    top = count + 2
    marked = [place for place in range(top + 1) if f"down {place}" in spans]
    lowest = min(marked) - 1 if marked else top
    if lowest == first + 1 == top - 1:  # between one stack and no other
        lowest -= 1
    down = {place: spans[f"down {place}"] for place in marked} | {lowest: spans["end"]}
    return [down.get(place, Span()) for place in range(top + 1)]


def _inference(attached: Attached, modules: list[nn.Module], first: int, load: Load) -> list[Span]:
    live = counting(attached.model, load)
    attached.model.eval()
    with _borders(modules, first, live), torch.no_grad(), live:
        live.mark("")
        logits = attached.model(**inputs_of(attached.model, *load.evaluated)).logits
        live.mark("up top")
        del logits
    return _up(live.spans, len(modules))


@dataclass
class _Borders:
    forward: bool = True


@contextmanager
def _borders(modules: list[nn.Module], first: int, live: LiveBytes) -> Iterator[_Borders]:
    """Mark where each module's input is there, where the last output of each stack is, and their gradients.

    Places are counted: 0 is before the layers, `first + 1` between the stacks, and the last one behind all layers.
    """
    borders = _Borders()
    places = [at + 1 + (at >= first) for at in range(len(modules))]

    def border(above: int, below: int, hidden: Tensor) -> None:
        if not borders.forward:
            return  # run again for the way back
        live.mark(f"up {below}")
        if hidden.requires_grad:
            hidden.register_hook(lambda _: live.mark(f"down {above}"))

    def entered(at: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        border(places[at], places[at] - 1, _entering(args, kwargs) if at == first else _hidden(args, kwargs))

    def left(at: int, _module: nn.Module, _args: Any, output: Any) -> None:
        above = len(modules) + 2 if at == len(modules) - 1 else places[at] + 1
        border(above, places[at], output[0] if isinstance(output, tuple) else output)

    handles = [
        module.register_forward_pre_hook(partial(entered, at), with_kwargs=True) for at, module in enumerate(modules)
    ]
    handles += [modules[at].register_forward_hook(partial(left, at)) for at in {first - 1, len(modules) - 1}]
    try:
        yield borders
    finally:
        for handle in handles:
            handle.remove()


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states that go into a layer."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _entering(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what goes into a decoder's first layer and has a gradient: hidden states, or else what it reads."""
    hidden = _hidden(args, kwargs)
    read = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.ndim == hidden.ndim]
    return next((one for one in (hidden, *read) if one.requires_grad), hidden)


def _standing(model: nn.Module, modules: list[nn.Module]) -> list[Standing]:
    """Return what stands in the stem's place, in each module, and behind: what several hold is the stem's."""
    owners: dict[int, int] = {}
    for at, module in enumerate(modules):
        for tensor in tensors_of(module):
            key = tensor.untyped_storage()._cdata
            owners[key] = at if owners.get(key, at) == at else -1
    found = [Standing() for _ in range(len(modules) + 2)]
    before = [0] * len(found)
    seen: set[int] = set()
    for tensor in sorted(tensors_of(model), key=lambda one: one.ndim < 2):  # as in the optimiser: matrices first
        storage = tensor.untyped_storage()
        if storage._cdata in seen:
            continue
        seen.add(storage._cdata)
        size, place = storage.nbytes(), owners.get(storage._cdata, -1) + 1
        if not tensor.requires_grad:
            found[place] += Standing(size)
            continue
        stepped = max(size, _STEPPED_BYTES * tensor.numel())
        masters = stepped if stepped > size else 0
        found[place] += Standing(size, size, masters, 2 * stepped + _COUNT_BYTES, 2 * stepped + before[place])
        before[place] = stepped
    return found
