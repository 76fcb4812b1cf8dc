"""The anatomy of a model, found by looking at its module graph and never by a list of model names.

Layers are repeated modules in a list; what stands in them is told by kind, shape and the words in the names
(see `layer_roles`). Works on the meta device: no weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile, zip_longest
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from evaluators.layer_roles import (
    LayerRoles,
    common_width,
    find_attentions,
    last_word,
    roles_in,
    within,
    words_of,
)
from evaluators.quantization import kind_of
from evaluators.task_switch import tasks_of
from search_space.placement import Anatomy, Block, Site, SiteKind

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HEAD_WORDS = {"classifier", "classification", "score", "head"}
_NOT_TOKENS = {"bias", "pos", "position", "positions", "positional", "rel", "relative", "wpe"}
_FOR_PROMPTS = {
    "number of layers": ("num_hidden_layers", "num_layers", "n_layer"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "number of heads": ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"),
}
"""What peft's prompts read of a configuration, each under the names that they look for."""


@dataclass(frozen=True, slots=True)
class _Layer:
    path: str
    stack: str
    roles: LayerRoles


def anatomy_of(model: nn.Module) -> Anatomy:
    """Return what a bare model (no adapter attached) offers to placements.

    `embeddings` are the tables of tokens and the convolutions that cut an image into patches (as wide as their
    stride). Three things are sites without that name, because an adapter there would fail or be dead:
    convolutions over sound (Whisper reads their stride, which an adapter hides), tables of positions (several
    models read their weight without calling the module), and a table that only lends its weight to those of the
    stacks (`shared` in T5 and BART). What `nn.MultiheadAttention` holds is no site at all: it is never called.

    Args:
        model: Any module; its parameters may be on the meta device.

    Returns:
        Sites, blocks and head. A model whose names tell nothing still has its sites, with kinds and paths.
    """
    leaves = _leaves(model)
    paths = _layer_paths(model, leaves)
    head = _head(model, leaves, paths)
    backbone = [site for site in leaves if not any(within(site.name, part) for part in head)]
    layers = _layers(paths, backbone)
    return Anatomy(
        architecture=_architecture(model),
        hidden_size=layers[-1].roles.hidden_size if layers else common_width(backbone),
        n_layers=len(layers),
        sites=_sites(backbone, layers, _stacks(paths)),
        blocks=tuple(_block(number, layer) for number, layer in enumerate(layers)),
        head=head,
        quantization=kind_of(model),
        tasks=tasks_of(model),
        untold=_untold(getattr(model, "config", None)),
    )


def _untold(config: Any) -> tuple[str, ...]:
    """Return what peft's prompts need and do not find in a configuration, read as peft 0.21 reads it."""
    if config is None:
        return tuple(_FOR_PROMPTS)
    said = config.to_dict() if hasattr(config, "to_dict") else dict(vars(config))
    said = said.get("text_config", said)
    known = {name for name in said if said[name] is not None}
    known |= {"num_hidden_layers"} if hasattr(config, "num_hidden_layers") else set()
    return tuple(what for what, names in _FOR_PROMPTS.items() if not known & set(names))


def _architecture(model: nn.Module) -> str:
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    return str(model_type or type(model).__name__)


def _leaves(model: nn.Module) -> list[Site]:
    closed = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    found = (_leaf(name, module) for name, module in model.named_modules())
    return [site for site in found if site and not any(within(site.name, name) for name in closed)]


def _leaf(name: str, module: nn.Module) -> Site | None:
    shape = _shape(module)
    if shape is None:
        return None
    kind, inputs, outputs = shape
    has_bias = getattr(module, "bias", None) is not None
    return Site(name, kind, _by_kind(kind, module), None, "", inputs, outputs, has_bias)


def _by_kind(kind: SiteKind, module: nn.Module) -> tuple[str, ...]:
    """Return what a module is called wherever it stands, as far as its kind tells it."""
    if kind == "norm":
        return ("norm",)
    patches = isinstance(module, _CONVOLUTIONS) and module.kernel_size == module.stride
    return ("embeddings",) if kind == "embedding" or patches else ()


def _shape(module: nn.Module) -> tuple[SiteKind, int, int] | None:
    if isinstance(module, Conv1D):
        return "conv1d", int(module.nx), int(module.nf)
    if isinstance(module, nn.Linear):
        return "linear", module.in_features, module.out_features
    if isinstance(module, nn.Embedding):
        return "embedding", module.num_embeddings, module.embedding_dim
    if isinstance(module, _CONVOLUTIONS):
        return "conv", module.in_channels, module.out_channels
    return _norm_shape(module)


def _norm_shape(module: nn.Module) -> tuple[SiteKind, int, int] | None:
    vectors = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 1]
    if "norm" not in type(module).__name__.lower() or not vectors:
        return None
    return "norm", vectors[0].numel(), vectors[0].numel()


def _layer_paths(model: nn.Module, leaves: Sequence[Site]) -> list[str]:
    """Return the paths of the layers, in order.

    A list of like modules holds layers if attentions stand in them: the innermost such list, for the stages
    of Swin are lists of layers. In a model without any attention the outermost lists are taken.
    """
    lists = {
        name: members for name, module in model.named_modules() if (members := _like_members(name, module, leaves))
    }
    attentive = {name: members for name, members in lists.items() if _attend(members, leaves)}
    if attentive:
        chosen = [name for name in attentive if not any(_below(other, name) for other in attentive)]
    else:
        chosen = [name for name in lists if not any(_below(name, other) for other in lists)]
    return [member for name in chosen for member in lists[name]]


def _below(name: str, other: str) -> bool:
    return name != other and within(name, other)


def _like_members(name: str, module: nn.Module, leaves: Sequence[Site]) -> list[str]:
    """Return the paths of a list's members when all are composite and of one kind, else nothing."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return []
    members = {f"{name}.{key}" if name else key: child for key, child in module.named_children()}
    if len({last_word(type(child).__name__) for child in members.values()}) != 1:
        return []
    composite = all(_composite(path, child, leaves) for path, child in members.items())
    return list(members) if composite else []


def _composite(path: str, module: nn.Module, leaves: Sequence[Site]) -> bool:
    if isinstance(module, nn.ModuleList):
        return False
    return any(_below(site.name, path) for site in leaves)


def _attend(members: Sequence[str], leaves: Sequence[Site]) -> bool:
    return any(_attends(path, leaves) for path in members)


def _attends(path: str, leaves: Sequence[Site]) -> bool:
    """Whether a module holds an attention and something besides its queries, keys and values."""
    linears = [site for site in leaves if site.kind in {"linear", "conv1d"} and _below(site.name, path)]
    attentions = find_attentions(path, linears)
    return bool(attentions) and len(linears) > sum(len(one.inputs) for one in attentions)


def _stacks(paths: Sequence[str]) -> dict[str, str]:
    """Return the names of the stacks by the path of their module; a single stack has the empty name."""
    roots = list(dict.fromkeys(_stack_root(path) for path in paths))
    if len(roots) <= 1:
        return dict.fromkeys(roots, "")
    split = [root.split(".") for root in roots]
    depth = next(at for at, parts in enumerate(zip_longest(*split)) if len(set(parts)) > 1)
    modules = [".".join(parts[: depth + 1]) for parts in split]
    short = [parts[depth].split("_")[0] for parts in split]
    names = short if len(set(short)) == len(set(modules)) else [parts[depth] for parts in split]
    return dict(zip(modules, names, strict=True))


def _stack_root(path: str) -> str:
    """Return the path of the list that holds a layer, or of the outermost where lists are nested."""
    return ".".join(takewhile(lambda part: not part.isdigit(), path.split(".")[:-1]))


def _stack_of(name: str, stacks: Mapping[str, str]) -> str:
    return next((stack for module, stack in stacks.items() if within(name, module)), "")


def _layers(paths: Sequence[str], backbone: Sequence[Site]) -> list[_Layer]:
    stacks = _stacks(paths)
    held = {path: [site for site in backbone if within(site.name, path)] for path in paths}
    return [_Layer(path, _stack_of(path, stacks), roles_in(path, held[path])) for path in paths]


def _block(number: int, layer: _Layer) -> Block:
    roles = layer.roles
    return Block(
        layer=number,
        name=layer.path,
        attention=roles.attention,
        mlp=roles.mlp,
        cross_attention=roles.cross_attention,
        stack=layer.stack,
        hidden_size=roles.hidden_size,
    )


def _sites(backbone: Sequence[Site], layers: Sequence[_Layer], stacks: Mapping[str, str]) -> tuple[Site, ...]:
    named = []
    for site in backbone:
        number = next((at for at, layer in enumerate(layers) if within(site.name, layer.path)), None)
        projections = _outer(site, backbone, stacks) if number is None else _inner(site, layers[number])
        stack = _stack_of(site.name, stacks)
        named.append(replace(site, projections=projections, layer=number, stack=stack))
    return tuple(named)


def _inner(site: Site, layer: _Layer) -> tuple[str, ...]:
    return site.projections if site.kind == "norm" else layer.roles.projections.get(site.name, ())


def _outer(site: Site, backbone: Sequence[Site], stacks: Mapping[str, str]) -> tuple[str, ...]:
    if site.kind == "norm":
        return site.projections
    other = _NOT_TOKENS & set(words_of(site.name)) or _lends_weight(site, backbone, stacks)
    return () if other else site.projections


def _lends_weight(site: Site, backbone: Sequence[Site], stacks: Mapping[str, str]) -> bool:
    """Whether a table outside the stacks has its like inside one, where it is called instead."""
    shape = (site.kind, site.in_features, site.out_features)
    return not _stack_of(site.name, stacks) and any(
        (other.kind, other.in_features, other.out_features) == shape and _stack_of(other.name, stacks)
        for other in backbone
    )


def _head(model: nn.Module, leaves: Sequence[Site], paths: Sequence[str]) -> tuple[str, ...]:
    """Return the model's own children that come after the layers and hold a linear or a convolution.

    Without layers, those whose name says that they are a head.
    """
    children = [name for name, _ in model.named_children()]
    trunk = [name for name in children if any(within(path, name) for path in paths)]
    if trunk:
        after = [name for name in children[children.index(trunk[0]) :] if name not in trunk]
    else:
        after = [name for name in children if _HEAD_WORDS & set(words_of(name))]
    return tuple(name for name in after if _projects(name, leaves))


def _projects(name: str, leaves: Sequence[Site]) -> bool:
    return any(within(site.name, name) and site.kind in {"linear", "conv1d", "conv"} for site in leaves)
