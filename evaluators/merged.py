"""A trained candidate merged into its backbone's weights, and the checkpoint that transformers reads by itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from evaluators.attach import REFUSALS, Attached
from evaluators.backbone import Backbone, head_of, load
from evaluators.model_copies import copy_of
from evaluators.spec import ModelSpec
from evaluators.tuners.merging import sharing_copy
from evaluators.tuners.shapes import innermost, input_width, is_linear
from search_space.candidate import Candidate
from search_space.carrying import require_mergeable
from search_space.errors import ExportError, UnsupportedError

TOLERANCE = 1e-4
"""How far the logits of a merged candidate may lie from those before, in float32."""
_ROWS = 1024
"""Rows of the identity that a module sees at once."""


def merged_model(held: Any) -> nn.Module:
    """Merge a PeftModel's adapter into its base model and return that, trained head included. The PeftModel is used up.

    peft merges in place, so the weights are cloned first: they may be shared with other candidates. And the head is
    unwrapped first: peft's own unloading fails on heads of several modules, such as RoBERTa's.

    Raises:
        UnsupportedError: The adapter cannot be merged, or a weight that it changes is another module's too. What peft
            raises for its own types is left as it is.
    """
    base = held.get_base_model()
    _require_untied(base)
    for parameter in base.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.clone()
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            owner, _, last = name.rpartition(".")
            setattr(
                base.get_submodule(owner), last, module.get_submodule(f"modules_to_save.{module.active_adapters[0]}")
            )
    merged: nn.Module = held.merge_and_unload()
    return merged


def _require_untied(base: nn.Module) -> None:
    """Refuse to merge into a weight that several modules hold: each would get the updates of all of them.

    Raises:
        UnsupportedError: It is so, as it is for the tables of T5's and BART's two stacks.
    """
    holders: dict[int, list[str]] = {}
    for name, module in base.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(name.removesuffix(".base_layer"))
    for name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            for parameter in innermost(module).parameters(recurse=False):
                if len(held := holders.get(id(parameter), [])) > 1:
                    raise UnsupportedError(
                        f"{name} cannot be merged: it shares its weight with {', '.join(sorted({*held} - {name}))}; "
                        "keep the adapter beside the model, or leave these modules out"
                    )


def merged_candidate(attached: Attached) -> nn.Module:
    """Merge every part of a trained candidate into its model's weights and return that, trained head included.

    Several adapters on one matrix are merged at once, by what the module as a whole computes; elsewhere each is merged
    from the inside out, as its wrappers stand around each other. The candidate is used up; the backbone stays as it is.

    Raises:
        UnsupportedError: A part cannot be merged, or the weights are quantised.
    """
    model = attached.model
    require_merged(attached.candidate, model)
    _require_untied(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in wrapped:
        if not name.endswith(".base_layer"):
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, _merged_layer(name, layer))
    return model


def _merged_layer(name: str, layer: Any) -> nn.Module:
    stack = [layer]
    while isinstance(stack[-1].base_layer, BaseTunerLayer):
        stack.append(stack[-1].base_layer)
    try:
        if is_linear(layer) and sum(len(one.active_adapters) for one in stack) > 1:
            return _by_what_it_computes(layer)
        for one in reversed(stack):
            one.merge()
    except UnsupportedError:
        raise
    except REFUSALS as error:
        raise UnsupportedError(f"{name} cannot be merged: {error}; leave it out, or keep the adapter beside") from error
    inner: nn.Module = stack[-1].base_layer
    return inner


def _by_what_it_computes(layer: Any) -> nn.Module:
    """Return a plain module with the matrix and the bias of what several adapters on one compute together.

    Merging one after another is wrong where a change is made of the backbone's weights, as HiRA's and GLoRA's: what
    was merged before is in them then. All that merges is affine, so the rows of the identity tell the matrix.
    """
    plain: Any = sharing_copy(innermost(layer))
    width, weight = input_width(layer, type(plain).__name__), plain.weight
    with torch.no_grad():
        bias = layer(weight.new_zeros(1, 1, width))[0, 0]
        rows = torch.eye(width, dtype=weight.dtype, device=weight.device).split(_ROWS)
        matrix = torch.cat([layer(some[None])[0] - bias for some in rows])
    by_columns = matrix if isinstance(plain, Conv1D) else matrix.T.contiguous()
    plain._parameters["weight"] = nn.Parameter(by_columns, requires_grad=False)
    if plain.bias is not None or bool(bias.any()):
        plain._parameters["bias"] = nn.Parameter(bias.clone(), requires_grad=False)
    return cast(nn.Module, plain)


def require_merged(candidate: Candidate, model: Any) -> None:
    """Refuse what cannot be merged by its methods, or by the type of the weights that it is to be merged into.

    Args:
        candidate: What is to be merged.
        model: The backbone, or a copy of it.

    Raises:
        UnsupportedError: It cannot; the message says why, and what can.
    """
    for part in candidate.parts:
        require_mergeable(part, model.config.model_type)
    if any(type(parameter) is not nn.Parameter for parameter in model.parameters()):
        raise UnsupportedError(
            "quantised weights cannot be merged into: rounded again they give other outputs; keep the adapter beside "
            "the model, or search with model.quantization: none"
        )


def in_float32(backbone: Backbone) -> Backbone:
    """Return a backbone of the same values in float32, so that merging does not round what was trained away."""
    return replace(backbone, model=copy_of(backbone.model).float(), dtype=torch.float32)


def save_merged(merged: nn.Module, backbone: Backbone, classes: Sequence[str], folder: Path) -> None:
    """Write a merged model as `from_pretrained` of transformers reads it: weights, configuration, tokenizer.

    Args:
        merged: What `merged_candidate` returned.
        backbone: What the candidate stood on.
        classes: Names of the classes, in the order of the logits.
        folder: Where to, a folder that is there.

    Raises:
        UnsupportedError: It has tensors that its class does not know, such as biases where the backbone has none.
    """
    model: Any = merged
    if strange := sorted(set(model.state_dict()) - set(backbone.model.state_dict())):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UnsupportedError(
            f"merged, it has {strange[0]}{more}, which a {type(model).__name__} does not: transformers would not read "
            "it back; put these parts elsewhere, or keep them beside the model"
        )
    model.config = copy.deepcopy(backbone.model.config)
    model.config.id2label = dict(enumerate(classes))
    model.config.label2id = {name: number for number, name in enumerate(classes)}
    model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def reload_merged(folder: Path) -> Any:
    """Load a merged candidate as any user of transformers would.

    Raises:
        ExportError: The checkpoint lacks tensors of its class, or has others.
    """
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        str(folder), output_loading_info=True
    )
    if odd := [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[kind]]:
        raise ExportError(f"the merged checkpoint does not fit its class: {odd[:3]}")
    return model


def load_merged(
    folder: Path, model: ModelSpec, candidate: Candidate, classes: int, tasks: int
) -> tuple[Attached, Backbone]:
    """Load a merged candidate as a backbone of its own on which nothing is attached.

    Args:
        folder: What `save_merged` wrote.
        model: What the candidate was trained on, which says where and how it runs.
        candidate: What was merged.
        classes: How many, of all tasks.
        tasks: How many.

    Raises:
        DataError: The folder has no readable checkpoint.
    """
    there = {"name": str(folder), "revision": None, "dtype": "float32", "quantization": "none"}
    backbone = load(model.model_copy(update=there), classes, tasks)
    heads = [backbone.model.get_submodule(name) for name in head_of(backbone.model)]
    head = tuple(parameter for module in heads for parameter in module.parameters())
    return Attached(backbone.model, candidate, ((),) * len(candidate.parts), head), backbone
