"""A size that differs between layers: one for each layer, one for each group of layers, or along a shape.

A part holds such a size as one number for each of its layers. Where all are equal it is a plain size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from search_space.candidate import KnobValue, Part
from search_space.errors import CandidateError, PlacementError, did_you_mean, one_of
from search_space.knobs import Chooser, Knob, draw_one, encode_one
from search_space.layers import group_sizes
from search_space.placement import Anatomy, Layers, Placement

Per = Literal["layer", "group", "shape"]
Shape = Literal["uniform", "increasing", "decreasing", "spindle", "bottleneck"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
_KEYS = ("of", "per", "shapes")
_MOST_GROUPS = 16


@dataclass(frozen=True)
class Spread:
    """How a size differs between layers.

    Attributes:
        values: The sizes, ascending.
        per: What has a size of its own: each layer, each group of layers, or nothing where a shape says all sizes.
        groups: How many contiguous groups the model's layers fall into, as in `group:1/4`; 0 for `layer`.
        shapes: The shapes to choose from. `uniform` takes any one of the sizes. From the input up, `increasing` takes
            them from the least to the greatest, `decreasing` the other way, `spindle` has the greatest in the middle
            and the least at both ends, `bottleneck` the other way (Chen et al. 2023, arXiv:2301.01821).
    """

    values: tuple[int, ...]
    per: Per
    groups: int = 0
    shapes: tuple[Shape, ...] = ()

    @classmethod
    def read(cls, where: str, data: Mapping[str, Any]) -> Spread:
        """Read `{of: [1, 4, 8], per: layer}`, `{..., per: "group:4"}` or `{..., per: "shape:4", shapes: [spindle]}`.

        Raises:
            CandidateError: It has another form.
        """
        for key in data:
            if key not in _KEYS:
                raise CandidateError(f"{where} has no {key!r}; allowed: {one_of(_KEYS)}{did_you_mean(str(key), _KEYS)}")
        values, per, groups = _sizes(where, data.get("of")), *_per(where, data.get("per"))
        if per == "shape":
            return cls(values, per, groups, _shapes(where, data.get("shapes", list(SHAPES)), len(values)))
        if "shapes" in data:
            raise CandidateError(f"{where}: shapes go with per: 'shape:4'")
        return cls(values, per, groups)

    def to_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        per = self.per if self.per == "layer" else f"{self.per}:{self.groups}"
        shapes = {"shapes": list(self.shapes)} if self.shapes else {}
        return {"of": list(self.values), "per": per, **shapes}


@dataclass(frozen=True)
class SpreadKnob:
    """A knob whose sizes differ between the layers of one model.

    Attributes:
        knob: The knob, with the sizes as its values.
        spread: How they differ.
        n_layers: Layers of the model.
    """

    knob: Knob
    spread: Spread
    n_layers: int

    def __post_init__(self) -> None:
        if self.spread.groups > self.n_layers:
            raise PlacementError(
                f"{self.knob.name}: {self.spread.groups} groups need at least as many layers; the model has "
                f"{self.n_layers}"
            )

    @property
    def name(self) -> str:
        """Name of the knob."""
        return self.knob.name

    def first(self, layers: Layers) -> KnobValue:
        """Return the knob's default on all layers where that is offered, else the first shape."""
        if self.spread.per != "shape" or "uniform" in self.spread.shapes:
            return self.knob.default
        return self._along(self.spread.shapes[0], 0, layers)

    def size(self, layers: Layers) -> int:
        """Number of different values on these layers."""
        choices: int = len(self.spread.values) ** len(self.units(layers))
        if self.spread.per == "shape":
            return len(self.forms(layers))
        return choices

    def draw(self, name: str, chooser: Chooser, layers: Layers) -> KnobValue:
        """Draw a size for each of these layers. Groups and layers that are not among them are not asked for."""
        if self.spread.per == "shape":
            shape = draw_one(f"{name}.{self.name}.shape", self.spread.shapes, False, chooser)
            index = 0
            if shape == "uniform":
                index = draw_one(f"{name}.{self.name}", tuple(range(len(self.spread.values))), True, chooser)
            return self._along(shape, index, layers)
        sizes = {
            unit: draw_one(self._named(name, unit), self.spread.values, True, chooser) for unit in self.units(layers)
        }
        return tuple(sizes[self._unit(layer)] for layer in layers.indices(self.n_layers))

    def encode(self, name: str, value: KnobValue, layers: Layers) -> dict[str, str | int | float]:
        """Return the parameters from which `draw` draws this value. ValueError when it is not offered."""
        indices = layers.indices(self.n_layers)
        sizes = value if isinstance(value, tuple) else (value,) * len(indices)
        if self.spread.per == "shape":
            return self._encode_shape(name, sizes, layers)
        by_unit = {self._unit(layer): size for layer, size in zip(indices, sizes, strict=True)}
        if tuple(by_unit[self._unit(layer)] for layer in indices) != sizes:
            raise ValueError(f"{name}.{self.name} {value} differs inside a group")
        parameters: dict[str, str | int | float] = {}
        for unit, size in by_unit.items():
            parameters |= encode_one(self._named(name, unit), self.spread.values, True, size)
        return parameters

    def _encode_shape(self, name: str, sizes: tuple[KnobValue, ...], layers: Layers) -> dict[str, str | int | float]:
        for shape, index in self._shapes():
            if self._along(shape, index, layers) == sizes:
                parameters = encode_one(f"{name}.{self.name}.shape", self.spread.shapes, False, shape)
                if shape == "uniform":
                    parameters |= encode_one(f"{name}.{self.name}", tuple(range(len(self.spread.values))), True, index)
                return parameters
        raise ValueError(f"{name}.{self.name} {sizes} has none of the shapes {one_of(self.spread.shapes)}")

    def _shapes(self) -> Iterable[tuple[Shape, int]]:
        """Yield everything that can be said of a shape."""
        for shape in self.spread.shapes:
            for index in range(len(self.spread.values) if shape == "uniform" else 1):
                yield shape, index

    def _along(self, shape: Shape, index: int, layers: Layers) -> tuple[int, ...]:
        levels = levels_of(shape, self.spread.groups, len(self.spread.values)) if shape != "uniform" else None
        group = self._groups
        return tuple(
            self.spread.values[index if levels is None else levels[group[layer]]]
            for layer in layers.indices(self.n_layers)
        )

    def forms(self, layers: Layers) -> tuple[tuple[int, ...], ...]:
        """Return the sizes that shapes give on some layers, each once."""
        if layers not in self._forms:
            each = (self._along(shape, index, layers) for shape, index in self._shapes())
            self._forms[layers] = tuple(dict.fromkeys(each))
        return self._forms[layers]

    @cached_property
    def _forms(self) -> dict[Layers, tuple[tuple[int, ...], ...]]:
        """What `forms` found for some layers before."""
        return {}

    def changed(self, value: KnobValue, unit: int, size: int, layers: Layers) -> tuple[int, ...]:
        """Return a value with another size for a layer, or for a group of layers."""
        indices = layers.indices(self.n_layers)
        sizes = value if isinstance(value, tuple) else (value,) * len(indices)
        return tuple(size if self._unit(layer) == unit else int(old) for layer, old in zip(indices, sizes, strict=True))

    def with_sizes(self, sizes: Mapping[int, int], layers: Layers) -> tuple[int, ...]:
        """Return the value that has these sizes for the units of some layers."""
        return tuple(sizes[self._unit(layer)] for layer in layers.indices(self.n_layers))

    def layers_of(self, unit: int, layers: Layers) -> tuple[int, ...]:
        """Return those of some layers that a unit stands for."""
        return tuple(layer for layer in layers.indices(self.n_layers) if self._unit(layer) == unit)

    def units(self, layers: Layers) -> list[int]:
        """Return the layers, or the groups of them, that have sizes of their own."""
        return sorted({self._unit(layer) for layer in layers.indices(self.n_layers)})

    def _unit(self, layer: int) -> int:
        return self._groups[layer] if self.spread.per == "group" else layer

    @cached_property
    def _groups(self) -> tuple[int, ...]:
        """The group of each layer."""
        sizes = group_sizes(self.n_layers, self.spread.groups or 1)
        return tuple(group for group, size in enumerate(sizes) for _ in range(size))

    def _named(self, name: str, unit: int) -> str:
        return f"{name}.{self.name}.{f'group{unit + 1}' if self.spread.per == 'group' else unit}"


def levels_of(shape: Shape, groups: int, levels: int) -> tuple[int, ...]:
    """Return for each group, from the input up, which of some ascending sizes it has; not for `uniform`."""
    last = max(groups - 1, 1)
    rising = [group / last for group in range(groups)]
    middle = max((groups - 1) // 2, 1)
    swelling = [min(group, groups - 1 - group) / middle for group in range(groups)]
    heights = {
        "increasing": rising,
        "decreasing": [1 - one for one in rising],
        "spindle": swelling,
        "bottleneck": [1 - one for one in swelling],
    }[shape]
    return tuple(math.floor(height * (levels - 1) + 0.5) for height in heights)


def require_size_for_each_layer(part: Part, layers: Sequence[int]) -> None:
    """Raise PlacementError unless sizes that differ between layers are as many as the layers of a part."""
    for name, sizes in part.knobs:
        if isinstance(sizes, tuple) and len(sizes) != len(layers):
            raise PlacementError(
                f"{part.method}.{name} has {len(sizes)} sizes, one for each layer, and is put on {len(layers)} layers"
            )


def in_one_size(part: Part, anatomy: Anatomy) -> tuple[Part, ...]:
    """Return the parts of one size each that a part stands for, in the order of their first layers.

    Raises:
        PlacementError: It does not have one size for each of its layers.
    """
    spread = [(name, value) for name, value in part.knobs if isinstance(value, tuple)]
    if not spread:
        return (part,)
    layers, n_layers = part.placement.layers.indices(anatomy.n_layers), anatomy.n_layers
    require_size_for_each_layer(part, layers)
    rows: dict[tuple[tuple[str, int], ...], set[int]] = {}
    for index, layer in enumerate(layers):
        rows.setdefault(tuple((name, sizes[index]) for name, sizes in spread), set()).add(layer)
    return tuple(_of_one_size(part, dict(sizes), chosen, n_layers) for sizes, chosen in rows.items())


def _of_one_size(part: Part, sizes: Mapping[str, int], layers: set[int], n_layers: int) -> Part:
    knobs = tuple({**dict(part.knobs), **sizes}.items())
    bits = Layers("bits", tuple(int(layer in layers) for layer in range(n_layers)))
    return Part(part.method, knobs, Placement(part.placement.projections, bits))


def _sizes(where: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or not given or not all(type(one) is int for one in given):
        raise CandidateError(f"{where}: 'of' lists whole numbers, such as [1, 4, 8], not {given!r}")
    if list(given) != sorted(set(given)):
        raise CandidateError(f"{where}: 'of' lists sizes in rising order, each once, not {list(given)}")
    return tuple(given)


def _per(where: str, given: Any) -> tuple[Per, int]:
    word, _, count = given.partition(":") if isinstance(given, str) else ("", "", "")
    if word == "layer" and not count:
        return "layer", 0
    groups = int(count) if count.isascii() and count.isdecimal() and len(count) < 4 else 0
    if word in ("group", "shape") and 1 < groups <= _MOST_GROUPS:
        return ("group" if word == "group" else "shape"), groups
    raise CandidateError(
        f"{where}: 'per' is 'layer', or 'group:4' or 'shape:4' for 2 to {_MOST_GROUPS} groups, not {given!r}"
    )


def _shapes(where: str, given: Any, sizes: int) -> tuple[Shape, ...]:
    shapes = given if isinstance(given, list | tuple) else [given]
    for one in shapes:
        if one not in SHAPES:
            raise CandidateError(
                f"{where}: {one!r} is not a shape; allowed: {one_of(SHAPES)}{did_you_mean(str(one), SHAPES)}"
            )
    if len(set(shapes)) != len(shapes) or not shapes:
        raise CandidateError(f"{where}: 'shapes' lists at least one, none twice")
    if sizes < 2:
        raise CandidateError(f"{where}: a shape needs at least two sizes")
    return tuple(shapes)
