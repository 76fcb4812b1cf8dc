"""What each linear module of one layer computes, told from names and shapes alone.

Names are hints (`q_proj`, `query`, `c_attn`); a claim also needs the structure behind it: queries, keys and
values stand together in one module, the output leads back to the width that entered, and an mlp goes out to
an inner width and comes back from it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from search_space.placement import Site

QUERY, KEY, VALUE, OUTPUT = "attention.query", "attention.key", "attention.value", "attention.output"
UP, GATE, DOWN = "mlp.up", "mlp.gate", "mlp.down"

_INPUT_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("q", "wq", "query", "queries"), (QUERY,)),
    **dict.fromkeys(("k", "wk", "key", "keys"), (KEY,)),
    **dict.fromkeys(("v", "wv", "value", "values"), (VALUE,)),
    **dict.fromkeys(("qkv", "wqkv"), (QUERY, KEY, VALUE)),
    **dict.fromkeys(("kv", "wkv"), (KEY, VALUE)),
    "qk": (QUERY, KEY),
}
_POSITION_WORDS = {"pos", "position", "rel", "relative", "r"}
_FUSED_WORDS = {"attn", "att", "in"}
_OUTPUT_WORDS = {"o", "wo", "out", "output"}
_CROSS_WORDS = {"encoder", "enc", "cross", "crossattention"}
_DOWN_WORDS = {"down", "fc2", "lin2", "linear2", "w2", "wo", "out", "output", "contract"}
_UP_WORDS = {"up", "gate", "fc1", "lin1", "linear1"}
_MLP_WORDS = {"mlp", "ffn", "ff", "feed"} | _UP_WORDS | _DOWN_WORDS - _OUTPUT_WORDS

_GATES_BY_TWIN = {"wi_0": "wi_1", "w1": "w3", "w_0": "w_1"}

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention found in a layer.

    Attributes:
        module: Path of the module that holds its projections.
        inputs: Projections by the name of the linear that computes them.
        output: Name of the linear behind it, if there is one.
        hidden_size: Width that enters.
        cross: Whether it attends to another stack.
    """

    module: str
    inputs: Mapping[str, tuple[str, ...]]
    output: str | None
    hidden_size: int
    cross: bool


@dataclass(frozen=True, slots=True)
class LayerRoles:
    """What was found in one layer; paths are full names.

    Attributes:
        hidden_size: Width of the hidden states, 0 when nothing tells it.
        projections: Projections by the name of the linear that computes them.
        attention: Path of the self-attention's module.
        cross_attention: Path of the cross-attention's module.
        mlp: Path of the mlp's own module.
    """

    hidden_size: int
    projections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attention: str | None = None
    cross_attention: str | None = None
    mlp: str | None = None


def words_of(path: str) -> tuple[str, ...]:
    """Return the lower-case words of a dotted path: `SelfAttention.q_proj` is self, attention, q, proj."""
    return tuple(word for word in re.split(r"[._]+", _CAMEL.sub("_", path).lower()) if word)


def last_word(class_name: str) -> str:
    """Return the last word of a class name: `T5LayerFF` gives `ff`."""
    return words_of(class_name)[-1]


def within(name: str, module: str) -> bool:
    """Whether a path is a module's own or stands below it; the empty path is the whole model."""
    return not module or name == module or name.startswith(f"{module}.")


def roles_in(layer: str, sites: Sequence[Site]) -> LayerRoles:
    """Return what the linear modules of the layer at path `layer` compute; `sites` are all of that layer."""
    linears = [site for site in sites if site.kind in {"linear", "conv1d"}]
    attentions = find_attentions(layer, linears)
    hidden_size = attentions[0].hidden_size if attentions else common_width(sites)
    mlp = _mlp_projections(layer, _outside(layer, linears, attentions), hidden_size, trusted=bool(attentions))
    return LayerRoles(
        hidden_size=hidden_size,
        projections={**_attention_projections(attentions), **mlp},
        attention=next((one.module for one in attentions if not one.cross), None),
        cross_attention=next((one.module for one in attentions if one.cross), None),
        mlp=_own_module(layer, mlp),
    )


def common_width(sites: Iterable[Site]) -> int:
    """Return the width that most norms and linears enter or leave with, the larger in a tie; 0 without any."""
    listed = [site for site in sites if site.kind in {"norm", "linear", "conv1d"}]
    widths = Counter(site.in_features for site in listed)
    widths += Counter(site.out_features for site in listed if site.kind != "norm")
    return max(widths, key=lambda width: (widths[width], width), default=0)


def find_attentions(layer: str, linears: Sequence[Site]) -> list[Attention]:
    """Return each module of a layer in which queries, keys and values stand together, in order."""
    by_parent: dict[str, dict[str, tuple[str, ...]]] = {}
    for site in linears:
        if carried := _inputs_carried(site, layer):
            by_parent.setdefault(_parent(site), {})[site.name] = carried
    return [
        _attention(layer, parent, inputs, linears)
        for parent, inputs in by_parent.items()
        if {name for carried in inputs.values() for name in carried} == {QUERY, KEY, VALUE}
    ]


def _parent(site: Site) -> str:
    """Return the module that holds a linear; a lone `linear` wrapped in `q_proj` counts as `q_proj`."""
    return site.name.removesuffix(".linear").rpartition(".")[0]


def _leaf_words(site: Site) -> set[str]:
    return set(words_of(site.name.removesuffix(".linear").rpartition(".")[2]))


def _inputs_carried(site: Site, layer: str) -> tuple[str, ...]:
    words = _leaf_words(site)
    if _POSITION_WORDS & words:
        return ()
    named = {projection for word in words for projection in _INPUT_WORDS.get(word, ())}
    if not named and _FUSED_WORDS & words and "att" in _parent(site)[len(layer) :].lower():
        named = set(_fused_by_width(site))
    return tuple(projection for projection in (QUERY, KEY, VALUE) if projection in named)


def _fused_by_width(site: Site) -> tuple[str, ...]:
    """Tell keys and values (exactly twice the width) from all three, whose keys may have fewer heads."""
    if site.out_features == 2 * site.in_features:
        return (KEY, VALUE)
    return (QUERY, KEY, VALUE) if site.out_features > site.in_features else ()


def _attention(layer: str, parent: str, inputs: Mapping[str, tuple[str, ...]], linears: Sequence[Site]) -> Attention:
    hidden_size = next(site.in_features for site in linears if QUERY in inputs.get(site.name, ()))
    others = [site for site in linears if site.name not in inputs and not _POSITION_WORDS & _leaf_words(site)]
    module, output = _attention_output(layer, parent, others, hidden_size)
    cross = bool(_CROSS_WORDS & set(words_of(parent[len(layer) :])))
    return Attention(module, inputs, output, hidden_size, cross)


def _attention_output(layer: str, parent: str, others: Sequence[Site], hidden_size: int) -> tuple[str, str | None]:
    """Look in ever wider modules, from the one that holds queries, keys and values to the whole layer."""
    module = parent
    while True:
        near = [site for site in others if within(site.name, module) and site.out_features == hidden_size]
        hinted = [site for site in near if _OUTPUT_WORDS & set(words_of(site.name[len(module) :]))]
        if module == layer:
            return (module, hinted[0].name) if hinted and parent == layer else (parent, None)
        if near:
            return module, (hinted or near)[0].name
        module = module.rpartition(".")[0]


def _attention_projections(attentions: Iterable[Attention]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for attention in attentions:
        found |= attention.inputs
        if attention.output:
            found[attention.output] = (OUTPUT,)
    return found


def _outside(layer: str, linears: Sequence[Site], attentions: Sequence[Attention]) -> list[Site]:
    taken = set(_attention_projections(attentions))
    modules = [attention.module for attention in attentions if attention.module != layer]
    return [
        site for site in linears if site.name not in taken and not any(within(site.name, module) for module in modules)
    ]


def _mlp_projections(
    layer: str, linears: Sequence[Site], hidden_size: int, *, trusted: bool
) -> dict[str, tuple[str, ...]]:
    """Pair linears that leave the width with those that come back to it.

    Without an attention beside it (`trusted` false) an mlp must also be called one.
    """
    named = [site for site in linears if trusted or _MLP_WORDS & set(words_of(site.name[len(layer) :]))]
    downs = [site for site in named if site.out_features == hidden_size and _leads_back(site, named)]
    ups = [site for site in named if site.in_features == hidden_size and site not in downs]
    inner, fused = {site.in_features for site in downs}, {2 * site.in_features for site in downs}
    ups = [site for site in ups if site.out_features in inner | fused]
    found = {site.name: _up_projections(site, named, inner) for site in ups}
    reached = {site.out_features for site in ups}
    found |= {site.name: (DOWN,) for site in downs if {site.in_features, 2 * site.in_features} & reached}
    return {site.name: found[site.name] for site in linears if site.name in found}


def _leads_back(site: Site, linears: Sequence[Site]) -> bool:
    """Whether a linear that ends in the layer's width is a down; only square ones leave a doubt."""
    if site.in_features != site.out_features:
        return True
    called_down = [other for other in linears if _DOWN_WORDS & _leaf_words(other)]
    return site in (called_down or linears[-1:])


def _up_projections(site: Site, linears: Sequence[Site], inner: set[int]) -> tuple[str, ...]:
    if site.out_features not in inner:
        return (UP, GATE)
    leaf = site.name.rpartition(".")[2]
    twins = {
        other.name.rpartition(".")[2]
        for other in linears
        if other is not site and _parent(other) == _parent(site) and other.out_features == site.out_features
    }
    paired = _GATES_BY_TWIN.get(leaf) in twins
    return (GATE,) if twins and (paired or "gate" in _leaf_words(site)) else (UP,)


def _own_module(layer: str, names: Iterable[str]) -> str | None:
    paths = [name.split(".")[:-1] for name in names]
    if not paths:
        return None
    shared: list[str] = []
    for components in zip(*paths, strict=False):
        if len(set(components)) > 1:
            break
        shared.append(components[0])
    module = ".".join(shared)
    return module if module != layer else None
