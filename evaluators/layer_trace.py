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


@dataclass(frozen=True)
class Trace:
    """A short model's step: what stands before its layers, each of these, and what stands behind them."""

    stem: Traced
    layers: tuple[Traced, ...]
    top: Traced


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
        standing = _standing(attached.model, modules)
        hooks_of(attached).assume()
        inference = _inference(attached, modules, load)
        forward, backward = _training(attached, modules, load)
    places = [Traced(*every) for every in zip(standing, forward, backward, inference, strict=True)]
    return Trace(places[0], tuple(places[1:-1]), places[-1])


def _training(attached: Attached, modules: list[nn.Module], load: Load) -> tuple[list[Span], list[Span]]:
    live = counting(attached.model, load)
    if load.accumulated:
        give_gradients(one for one in attached.trainable if stepped_as_it_is(one))
    attached.model.train()
    if load.checkpointing:
        checkpoint_activations(attached.model)
    with _borders(modules, live) as borders, live:
        live.mark("")
        logits = attached.model(**inputs_of(attached.model, load.batch, load.length)).logits
        loss = hooks_of(attached).penalised(loss_of(logits, torch.zeros((load.batch,), dtype=torch.long), 0.0))
        del logits
        live.mark("top")
        borders.forward = False
        loss.backward()
        live.mark("end")
    count = len(modules)
    up = [live.spans[name] for name in ("stem", *(f"up {at}" for at in range(count)), "top")]
    return up, _down(live.spans, count)


def _down(spans: Mapping[str, Span], count: int) -> list[Span]:
    """Return the spans of the way down, the stem's first; of what is not reached an empty one.

    The last span goes to where the gradients of activations end: to the lowest layer that is trained.
    """
    marked = [at for at in range(count + 1) if f"down {at}" in spans]
    lowest = min(marked) - 1 if marked else count
    down = {at: spans[f"down {at}"] for at in marked} | {lowest: spans["end"]}
    return [down.get(at, Span()) for at in range(-1, count + 1)]


def _inference(attached: Attached, modules: list[nn.Module], load: Load) -> list[Span]:
    live = counting(attached.model, load)
    attached.model.eval()
    with _borders(modules, live), torch.no_grad(), live:
        live.mark("")
        logits = attached.model(**inputs_of(attached.model, *load.evaluated)).logits
        live.mark("top")
        del logits
    return [live.spans[name] for name in ("stem", *(f"up {at}" for at in range(len(modules))), "top")]


@dataclass
class _Borders:
    forward: bool = True


@contextmanager
def _borders(modules: list[nn.Module], live: LiveBytes) -> Iterator[_Borders]:
    """Mark where each module's input is there, where the last one's output is, and their gradients."""
    borders = _Borders()

    def border(name: str, below: str, hidden: Tensor) -> None:
        if not borders.forward:
            return  # run again for the way back
        live.mark(below)
        if hidden.requires_grad:
            hidden.register_hook(lambda _: live.mark(name))

    def entered(at: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        border(f"down {at}", f"up {at - 1}" if at else "stem", hidden)

    def left(_module: nn.Module, _args: Any, output: Any) -> None:
        border(f"down {len(modules)}", f"up {len(modules) - 1}", output[0] if isinstance(output, tuple) else output)

    handles = [
        module.register_forward_pre_hook(partial(entered, at), with_kwargs=True) for at, module in enumerate(modules)
    ]
    handles.append(modules[-1].register_forward_hook(left))
    try:
        yield borders
    finally:
        for handle in handles:
            handle.remove()


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
