"""A model of fewer layers: some of another's, with the parts of a candidate that stand on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.model_copies import copy_of
from search_space.candidate import Candidate, KnobValue, Part
from search_space.placement import Anatomy, Layers


def is_one_stack(anatomy: Anatomy) -> bool:
    """Whether a model's layers are the members of one list, run one after another."""
    return len({block.name.rpartition(".")[0] for block in anatomy.blocks}) == 1


def first_stack(names: Sequence[str]) -> int:
    """Return how many of some layers, told by their modules' names in order, are of the first one's list."""
    lists = [name.rpartition(".")[0] for name in names]
    return lists.count(lists[0])


def is_two_in_turn(model: nn.Module, anatomy: Anatomy) -> bool:
    """Whether a model is an encoder and a decoder that reads what the last of its layers gives, of one list each."""
    lists = {block.name.rpartition(".")[0] for block in anatomy.blocks}
    return len(lists) == 2 and bool(getattr(model.config, "is_encoder_decoder", False))


def shortened(model: nn.Module, anatomy: Anatomy, layers: Sequence[int]) -> tuple[nn.Module, Anatomy]:
    """Return a copy of a model with some of its layers only, and the copy's anatomy.

    Args:
        model: A classifier of one stack, or of an encoder and a decoder; the copy shares its tensors.
        anatomy: Its anatomy.
        layers: The layers to keep, ascending.
    """
    copied: Any = copy_of(model)
    stacks: dict[str, list[nn.Module]] = {}
    for layer in layers:
        name = anatomy.blocks[layer].name
        stacks.setdefault(name.rpartition(".")[0], []).append(copied.get_submodule(name))
    for path, blocks in stacks.items():
        parent, _, last = path.rpartition(".")
        setattr(copied.get_submodule(parent), last, nn.ModuleList(blocks))
        _number(blocks)
    if len(stacks) == 1:
        _say_so(copied.config, layers)
    return copied, anatomy_of(copied)


def _number(blocks: Sequence[nn.Module]) -> None:
    """Tell layers their places, which their caches go by."""
    for number, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]


def _say_so(config: Any, layers: Sequence[int]) -> None:
    config.num_hidden_layers = len(layers)
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[layer] for layer in layers]


def on_layers(candidate: Candidate, layers: Sequence[int], n_layers: int) -> Candidate:
    """Return a candidate as it stands on some layers of a model, for a model of these alone."""
    return replace(candidate, parts=tuple(_part_on(part, layers, n_layers) for part in candidate.parts))


def _part_on(part: Part, layers: Sequence[int], n_layers: int) -> Part:
    own = part.placement.layers.indices(n_layers)
    kept = [layer for layer in layers if layer in own]
    knobs = tuple((name, _sizes_on(value, own, kept)) for name, value in part.knobs)
    if part.placement.layers.kind == "all":
        return replace(part, knobs=knobs)
    bits = Layers("bits", tuple(int(layer in own) for layer in layers))
    return replace(part, knobs=knobs, placement=replace(part.placement, layers=bits))


def _sizes_on(value: KnobValue, own: Sequence[int], kept: Sequence[int]) -> KnobValue:
    if not isinstance(value, tuple):
        return value
    return tuple(value[own.index(layer)] for layer in kept)
