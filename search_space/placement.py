"""Where in a model a part is put, and what a model offers.

A `Placement` is pure data: semantic projections and a selector of layers. An `Anatomy` says what one model
has: its sites (modules that a method can change), its blocks (layers) and its head. `Anatomy.resolve` brings
the two together. Nothing here loads a model: `evaluators.anatomy` finds the anatomy in the module graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NoReturn, get_args

from search_space.errors import (
    CandidateError,
    DataError,
    NotationError,
    ParetuneError,
    PlacementError,
    did_you_mean,
    one_of,
)
from search_space.layers import Layers
from search_space.projections import GROUPS, MODULE, PROJECTIONS, canonical_words, expand_projections

__all__ = [
    "GROUPS",
    "PROJECTIONS",
    "SITE_KINDS",
    "Anatomy",
    "Block",
    "Layers",
    "Placement",
    "Site",
    "SiteKind",
    "canonical_words",
    "expand_projections",
]

SiteKind = Literal["linear", "conv1d", "norm", "embedding", "conv"]
SITE_KINDS: tuple[SiteKind, ...] = get_args(SiteKind)


@dataclass(frozen=True, order=True, slots=True)
class Placement:
    """Semantic projections in chosen layers, written `attention.query,attention.value[top:3]`.

    Attributes:
        projections: Names out of `PROJECTIONS`, in that order, each once. The groups `attention`, `mlp` and
            `linear` (alias `all`) are accepted and stored as their members; text and JSON show them as
            groups again. Empty means the method's own fixed places.
        layers: The layers; not written when they are all.

    Raises:
        CandidateError: A projection is unknown, or a text stands where names and layers belong.
    """

    projections: tuple[str, ...] = ()
    layers: Layers = field(default_factory=Layers)

    def __post_init__(self) -> None:
        _refuse_text(self.projections, self.layers)
        object.__setattr__(self, "projections", expand_projections(self.projections))

    @property
    def words(self) -> tuple[str, ...]:
        """The projections as the fewest words, groups included."""
        return canonical_words(self.projections)

    def __str__(self) -> str:
        brackets = "" if self.layers.kind == "all" else f"[{self.layers}]"
        return ",".join(self.words) + brackets

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Read the notation; the inverse of `str`. The empty text is the method's own places in all layers.

        Raises:
            NotationError: The text does not parse, or names a projection twice.
        """
        names, bracket, tail = text.partition("[")
        if bracket and not tail.endswith("]"):
            raise NotationError(f"placement {text!r}: the layers end with ']', as in attention.query[top:3]")
        layers = Layers.parse(tail[:-1]) if bracket else Layers()
        try:
            return cls(_distinct(names.split(",") if names else ()), layers)
        except CandidateError as error:
            raise NotationError(f"placement {text!r}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the canonical JSON value: equal placements give equal values."""
        return {"projections": list(self.words), "layers": str(self.layers)}

    @classmethod
    def from_json(cls, data: object) -> Placement:
        """Read what `to_json` gives; the keys must be exactly those.

        Raises:
            CandidateError: The value has another form, or names something unknown.
        """
        record = _record(data, "placement", {"projections": (list,), "layers": (str,)}, CandidateError)
        words = record["projections"]
        if not all(type(word) is str for word in words):
            raise CandidateError(f"placement: projections must be a list of names, got {words!r}")
        return cls(_distinct(words), Layers.parse(record["layers"]))


def _refuse_text(projections: object, layers: object) -> None:
    if isinstance(projections, str) or not isinstance(layers, Layers):
        raise CandidateError("a placement takes a tuple of names and a Layers; texts go to Placement.parse")


def _distinct(words: Iterable[str]) -> tuple[str, ...]:
    seen = tuple(words)
    repeated = sorted({word for word in seen if seen.count(word) > 1})
    if repeated:
        raise CandidateError(f"{one_of(repeated)} named more than once; name each projection once")
    return seen


@dataclass(frozen=True, order=True, slots=True)
class Site:
    """One module that a method can change.

    Attributes:
        name: Its full path in the model.
        kind: What it is. `conv1d` is the transposed linear of `transformers` (GPT-2), `conv` a convolution.
        projections: What it computes; several where it is fused, none where it has no semantic name.
        layer: The block it stands in, or None outside the layers.
        stack: `encoder` or `decoder` in a model of both; the name of the tower in a model of several (CLIP:
            `text`, `vision`); empty in a model of one stack and outside the stacks.
        in_features: Input width; the number of rows for an embedding, of input channels for a convolution.
        out_features: Output width, embedding width or output channels. A norm has equal widths.
        has_bias: Whether it has a bias.
    """

    name: str
    kind: SiteKind
    projections: tuple[str, ...]
    layer: int | None
    stack: str
    in_features: int
    out_features: int
    has_bias: bool

    def carries(self, wanted: Set[str]) -> bool:
        """Whether it computes one of some projections, or is one of some modules (`module:NAME`)."""
        return not wanted.isdisjoint(self.projections) or f"{MODULE}{self.name}" in wanted


@dataclass(frozen=True, order=True, slots=True)
class Block:
    """One layer of a model.

    Attributes:
        layer: Its number, from 0. In a model of several stacks the layers are numbered one after another in
            the order of the module graph: those of the encoder first, then those of the decoder.
        name: Path of the layer's module.
        attention: Path of the module that holds the self-attention's projections and no others, if any.
        mlp: Path of the module that holds the mlp's projections and no others, if any. BERT, OPT and BART
            keep them directly in the layer, so have none.
        cross_attention: Path of the cross-attention's module, if any.
        stack: As in `Site`.
        hidden_size: Width of the hidden states in this layer (Swin's stages differ).
    """

    layer: int
    name: str
    attention: str | None
    mlp: str | None
    cross_attention: str | None
    stack: str
    hidden_size: int


@dataclass(frozen=True)
class Anatomy:
    """What one model offers to placements.

    Attributes:
        architecture: The model type that the model's configuration gives, or the name of its class.
        hidden_size: Width of the hidden states that leave the last layer.
        n_layers: Number of blocks, those of all stacks together.
        sites: Every module that can be changed, in the order of the module graph, without the head.
        blocks: Every layer, by number.
        head: Paths of the modules after the backbone (classifier, score, lm_head), outermost only.
        quantization: How the frozen weights are quantised, as a study file says it; `none` where they are not.
        device: Where they will be, `cpu`, `cuda` or another: kernels for quantised weights are not the same everywhere.
        tasks: How many tasks the model is for.
        untold: What a prompt has to know of a model and this one's configuration does not say, in words.
    """

    architecture: str
    hidden_size: int
    n_layers: int
    sites: tuple[Site, ...]
    blocks: tuple[Block, ...]
    head: tuple[str, ...]
    quantization: str = "none"
    device: str = "cpu"
    tasks: int = 1
    untold: tuple[str, ...] = ()

    @property
    def projections(self) -> tuple[str, ...]:
        """The projections that this model has."""
        present = {projection for site in self.sites for projection in site.projections}
        return tuple(name for name in PROJECTIONS if name in present)

    def resolve(self, placement: Placement) -> tuple[Site, ...]:
        """Return the sites that a placement names, in the model's order.

        Every canonical word must match, so `mlp` serves a model without gates while `mlp.gate` does not.
        Sites outside the layers (embeddings, the last norm) belong to `all` layers only. A fused site is
        returned when any of its projections is asked for. Without projections every site of the chosen layers
        is returned: the method narrows them to its own places.

        Raises:
            PlacementError: A projection or the layers match nothing here.
        """
        layers, wanted = placement.layers, placement.projections
        if not wanted:
            return _nonempty(self._sites_in(layers), f"{self.architecture} has no module that a method can change")
        if wanted not in self._carriers:
            words = tuple((word, self._holders(word)) for word in placement.words)
            self._carriers[wanted] = words, tuple(site for site in self.sites if site.carries(set(wanted)))
        words, sites = self._carriers[wanted]
        chosen = None if layers.kind == "all" else frozenset(layers.indices(self.n_layers))
        for word, holders in words:
            if not holders or (chosen is not None and chosen.isdisjoint(holders)):
                self._refuse(word, layers)
        return sites if chosen is None else tuple(site for site in sites if site.layer in chosen)

    def resolve_paths(self, paths: Iterable[str], layers: Layers | None = None) -> tuple[Site, ...]:
        """Return the sites that module paths name, in the model's order: for architectures of unknown names.

        A path is a full name, or its last dotted components (`self_attn.q_proj`, `q_proj`), which may match
        many. It is never a regular expression.

        Raises:
            PlacementError: A path matches no site, or no site of the chosen layers.
        """
        candidates = self._sites_in(layers or Layers())
        chosen: set[str] = set()
        for path in paths:
            names = {site.name for site in candidates if _ends_with(site.name, path)}
            if not names:
                raise PlacementError(self._unmatched_path(path, layers))
            chosen |= names
        sites = tuple(site for site in candidates if site.name in chosen)
        return _nonempty(sites, f"no module path was given; give some, such as {self._example_paths()}")

    def blocks_in(self, layers: Layers) -> tuple[Block, ...]:
        """Return the blocks of the chosen layers, by number.

        Raises:
            PlacementError: The model has no layers, or not these.
        """
        chosen = set(layers.indices(self.n_layers))
        return tuple(block for block in self.blocks if block.layer in chosen)

    def to_json(self) -> dict[str, Any]:
        """Return this anatomy as a JSON value."""
        data = asdict(self)
        data["sites"] = [{**site, "projections": list(site["projections"])} for site in data["sites"]]
        return data | {name: list(data[name]) for name in ("blocks", "head", "untold")}

    @classmethod
    def from_json(cls, data: object) -> Anatomy:
        """Read what `to_json` gives; keys and types must be exactly those.

        Raises:
            DataError: The value has another form.
        """
        missing = {"quantization": "none", "device": "cpu", "tasks": 1, "untold": []}
        given = missing | data if isinstance(data, dict) else data
        record = _record(given, "anatomy", _ANATOMY_FIELDS, DataError)
        sites = tuple(_site(item) for item in record.pop("sites"))
        blocks = tuple(_block(item) for item in record.pop("blocks"))
        head, untold = (_texts(record.pop(name), name) for name in ("head", "untold"))
        return cls(sites=sites, blocks=blocks, head=head, untold=untold, **record)

    def _sites_in(self, layers: Layers) -> tuple[Site, ...]:
        if layers.kind == "all":
            return self.sites
        chosen = set(layers.indices(self.n_layers))
        return tuple(site for site in self.sites if site.layer in chosen)

    @cached_property
    def _carriers(
        self,
    ) -> dict[tuple[str, ...], tuple[tuple[tuple[str, frozenset[int | None]], ...], tuple[Site, ...]]]:
        """What `resolve` found: for projections each word with its layers, and the sites that carry any of them."""
        return {}

    def _holders(self, word: str) -> frozenset[int | None]:
        """Return the layers that a word's modules stand in; None for those outside the layers."""
        wanted = {word} if word.startswith(MODULE) else set(expand_projections((word,)))
        return frozenset(site.layer for site in self.sites if site.carries(wanted))

    def _refuse(self, word: str, layers: Layers) -> NoReturn:
        """Say why nothing in some layers is what a word names."""
        if word.startswith(MODULE):
            self._refuse_module(word.removeprefix(MODULE), layers)
        if not (holders := self._holders(word)):
            raise PlacementError(self._lacking(word))
        held = sorted(holders, key=_none_first)
        where = "outside the layers" if held == [None] else f"in layers {', '.join(map(str, held))}"
        raise PlacementError(
            f"{self.architecture} has no {word} in layers {str(layers)!r}: it stands {where}; "
            "choose other layers, or all"
        )

    def _refuse_module(self, name: str, layers: Layers) -> NoReturn:
        if any(site.name == name for site in self.sites):
            raise PlacementError(f"{name!r} is not in layers {str(layers)!r}; choose other layers, or all")
        if any(name == head or name.startswith(f"{head}.") for head in self.head):
            raise PlacementError(f"{name!r} belongs to the head ({one_of(self.head)}), which is trained whole")
        raise PlacementError(
            f"{self.architecture} has no module {name!r} that a method can change"
            f"{did_you_mean(name, [site.name for site in self.sites])}; it has modules such as {self._example_paths()}"
        )

    def _lacking(self, word: str) -> str:
        has = one_of(self.projections) if self.projections else "no projection that is known by its name"
        return (
            f"{self.architecture} has no {word}{did_you_mean(word, self.projections)}; it has {has}; "
            f"other modules are given by their full names, as in 'module:NAME', such as {self._example_paths()}"
        )

    def _example_paths(self) -> str:
        plain = [site.name for site in self.sites if site.kind in {"linear", "conv1d"}]
        return one_of((plain or [site.name for site in self.sites])[:3]) or "none: it has no such module"

    def _unmatched_path(self, path: str, layers: Layers | None) -> str:
        if any(_ends_with(site.name, path) for site in self.sites):
            return f"{path!r} matches no module in layers {str(layers)!r}; choose other layers, or all"
        if any(path == head or path.startswith(f"{head}.") for head in self.head):
            return f"{path!r} belongs to the head ({one_of(self.head)}), which is trained whole"
        return (
            f"{path!r} matches no module of {self.architecture}{did_you_mean(path, self._suffixes())}; "
            f"give a full path or its last dotted components, such as {self._example_paths()}"
        )

    def _suffixes(self) -> set[str]:
        parts = [site.name.split(".") for site in self.sites]
        return {".".join(names[start:]) for names in parts for start in range(len(names))}


def _none_first(layer: int | None) -> int:
    return -1 if layer is None else layer


def _ends_with(name: str, path: str) -> bool:
    return bool(path) and f".{name}".endswith(f".{path}")


def _nonempty(sites: tuple[Site, ...], otherwise: str) -> tuple[Site, ...]:
    if not sites:
        raise PlacementError(otherwise)
    return sites


_Fields = Mapping[str, tuple[type, ...]]

_SITE_FIELDS: _Fields = {
    "name": (str,),
    "kind": (str,),
    "projections": (list,),
    "layer": (int, type(None)),
    "stack": (str,),
    "in_features": (int,),
    "out_features": (int,),
    "has_bias": (bool,),
}
_BLOCK_FIELDS: _Fields = {
    "layer": (int,),
    "name": (str,),
    "attention": (str, type(None)),
    "mlp": (str, type(None)),
    "cross_attention": (str, type(None)),
    "stack": (str,),
    "hidden_size": (int,),
}
_ANATOMY_FIELDS: _Fields = {
    "architecture": (str,),
    "hidden_size": (int,),
    "n_layers": (int,),
    "sites": (list,),
    "blocks": (list,),
    "head": (list,),
    "quantization": (str,),
    "device": (str,),
    "tasks": (int,),
    "untold": (list,),
}


def _record(data: object, what: str, fields: _Fields, error: type[ParetuneError]) -> dict[str, Any]:
    if not isinstance(data, dict) or set(data) != set(fields):
        got = one_of(str(key) for key in data) if isinstance(data, dict) else type(data).__name__
        raise error(f"{what}: expected an object with exactly {one_of(fields)}, got {got or 'no keys'}")
    for key, allowed in fields.items():
        if type(data[key]) not in allowed:
            names = " or ".join(kind.__name__ for kind in allowed)
            raise error(f"{what}: {key} must be {names}, got {data[key]!r}")
    return dict(data)


def _texts(values: list[object], what: str) -> tuple[str, ...]:
    texts = tuple(value for value in values if isinstance(value, str))
    if len(texts) != len(values):
        raise DataError(f"{what}: expected a list of texts, got {values!r}")
    return texts


def _block(data: object) -> Block:
    return Block(**_record(data, "block", _BLOCK_FIELDS, DataError))


def _site(data: object) -> Site:
    record = _record(data, "site", _SITE_FIELDS, DataError)
    if record["kind"] not in SITE_KINDS:
        raise DataError(f"site: {record['kind']!r} is not a kind; allowed: {one_of(SITE_KINDS)}")
    projections = _texts(record.pop("projections"), "projections")
    if unknown := [name for name in projections if name not in PROJECTIONS]:
        raise DataError(f"site: {one_of(unknown)} not known; allowed: {one_of(PROJECTIONS)}")
    return Site(projections=projections, **record)
