"""Stubs of a model: what a tuner walks through."""

from __future__ import annotations

from itertools import product
from weakref import ref

import pytest
import torch
from torch import nn

from evaluators.model_copies import outline_of
from evaluators.specimens import without_weights
from evaluators.stub import Skeleton, Stub

NAMES = ["bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1.output.dense", "bert.embeddings"]


def stub() -> Stub:
    """Return a stub with a module and a parameter that stand in it twice."""
    model = without_weights("bert")
    one = Stub("bert", ((f"m.{name}", model.get_submodule(name)) for name in NAMES))
    with torch.device("meta"):
        shared = nn.Linear(3, 3)
        one.put("m.twice", shared)
        one.put("other.twice", shared)
        tied = nn.Linear(3, 3)
    tied.weight = shared.weight
    one.put("other.tied", tied)
    one.get_submodule("other").add_module("absent", None)
    return one


@pytest.mark.parametrize(("prefix", "once"), product(["", "before"], [True, False]))
def test_it_is_walked_through_as_every_module_is(prefix: str, once: bool) -> None:
    one = stub()
    walks = [(Stub.named_modules, nn.Module.named_modules), (Stub.named_parameters, nn.Module.named_parameters)]
    for ours, theirs in walks:
        assert list(ours(one, prefix=prefix, remove_duplicate=once)) == list(
            theirs(one, prefix=prefix, remove_duplicate=once)
        )
    assert list(one.named_parameters(recurse=False)) == list(nn.Module.named_parameters(one, recurse=False))
    assert len(list(one.parameters())) == len(list(nn.Module.parameters(one)))


def test_what_is_replaced_on_a_walk_is_looked_into_as_it_is_by_every_module() -> None:
    seen = []
    for walk in (Stub.named_modules, nn.Module.named_modules):
        one, names = stub(), []
        for name, module in walk(one):
            names.append(name)
            if name.endswith("self.query"):
                parent, _, last = name.rpartition(".")
                setattr(one.get_submodule(parent), last, nn.Identity())
            if name.endswith("output") and len(module._modules) == 1:
                module.dense = nn.Sequential(nn.Identity())
        seen.append(names)
    assert seen[0] == seen[1]


def test_an_outline_is_walked_through_alike_and_freed_when_it_is_dropped() -> None:
    model = without_weights("bert")
    outline = outline_of(model, ["bert.encoder.layer.0"])
    assert outline.named_modules != model.named_modules
    assert list(outline.named_modules()) == list(nn.Module.named_modules(outline))
    assert list(outline.named_parameters()) == list(nn.Module.named_parameters(outline))
    assert not [name for name, _ in outline.named_modules() if name.startswith("bert.encoder.layer.0.")]
    itself = ref(outline)
    del outline
    assert itself() is None


def test_a_skeleton_has_empty_modules_where_names_end_alike() -> None:
    model = without_weights("bert")
    one = Skeleton("bert", dict(model.named_modules()), NAMES[:1])
    assert isinstance(one.get_submodule(NAMES[0]), nn.Linear)
    assert not list(one.get_submodule(NAMES[0].replace("layer.0", "layer.1")).parameters())
    assert one.config == {"model_type": "bert"}
