"""A model of fewer layers: some of another's, with the parts of a candidate that stand on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.backbone import copy_of
from search_space.candidate import Candidate, KnobValue, Part
from search_space.placement import Anatomy, Layers


def is_one_stack(anatomy: Anatomy) -> bool:
    """Whether a model's layers are the members of one list, run one after another."""
    return len({block.name.rpartition(".")[0] for block in anatomy.blocks}) == 1


def shortened(model: nn.Module, anatomy: Anatomy, layers: Sequence[int]) -> tuple[nn.Module, Anatomy]:
    """Return a copy of a model of one stack with some of its layers only, and the copy's anatomy.

    Args:
        model: A classifier; the copy shares its tensors.
        anatomy: Its anatomy.
        layers: The layers to keep, ascending.
    """
    copied: Any = copy_of(model)
    path, _, _ = anatomy.blocks[0].name.rpartition(".")
    blocks = list(copied.get_submodule(path))
    parent, _, last = path.rpartition(".")
    kept = nn.ModuleList(blocks[layer] for layer in layers)
    setattr(copied.get_submodule(parent), last, kept)
    _say_so(copied.config, layers)
    for number, block in enumerate(kept):
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
    return copied, anatomy_of(copied)


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
