"""The registry of PEFT methods: each module in `search_space/methods` gives one `METHOD`.

A method is pure data and one pure function from a part and its resolved targets to the configuration that `peft`
builds it from. Adding a method adds one file and touches no other.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from search_space.candidate import Part
from search_space.errors import CandidateError, did_you_mean, one_of
from search_space.forms import FORMS
from search_space.knobs import Knob, LogRange, flag
from search_space.placement import Anatomy, Placement, Site
from search_space.unsupported import UNSUPPORTED

Family = Literal["additive", "selective", "reparameterized", "hybrid", "quantized", "multi-task", "unified"]
Route = Literal["inject", "prompt", "head", "full"]

PER_TASK = flag("per_task", "an adapter for each of several tasks, instead of one for all")
"""A knob of every method that is injected and knows nothing of tasks itself; off where a study has one task."""


@dataclass(frozen=True)
class Targets:
    """Where a part goes in one model, resolved.

    Attributes:
        sites: The modules that it touches, in the order of the model.
        layers: The layers that it touches.
        anatomy: The whole model.
    """

    sites: tuple[Site, ...]
    layers: tuple[int, ...]
    anatomy: Anatomy

    @property
    def names(self) -> list[str]:
        """Full names of the target modules: always a list, since peft reads a string as a regular expression."""
        return [site.name for site in self.sites]

    def names_of(self, projection: str) -> list[str]:
        """Full names of the target modules that carry one projection."""
        return [site.name for site in self.sites if projection in site.projections]


@dataclass(frozen=True)
class PlacementRule:
    """Where a method may be put.

    Attributes:
        default: Where it goes when nothing is said.
        projections: Sets of projections that a search chooses from by default, in notation; empty where fixed.
        layers: Whether it can be put on some layers only.
        kinds: Kinds of modules that it can wrap.
    """

    default: Placement
    projections: tuple[str, ...] = ()
    layers: bool = True
    kinds: tuple[str, ...] = ("linear", "conv1d")

    @property
    def fixed(self) -> bool:
        """Whether the method has its own place and takes no projections."""
        return not self.default.projections


@dataclass(frozen=True)
class Method:
    """One PEFT method.

    Attributes:
        name: Its name in candidates, study files and the notation.
        title: Its name in its paper.
        family: Its class in the surveys.
        paper: Authors, year and where it is found.
        summary: One sentence.
        knobs: What can be set.
        placement: Where it can go.
        learning_rate: Range to search and the default, for encoders of this size; a property of the method.
        route: How it is attached: injected into modules, as a prompt around the model, head only, or everything.
        peft_type: peft's name of the type; empty for the references.
        merges: Whether it can be merged into the backbone's weights.
        config: From a part and its targets to the keyword arguments of peft's configuration class.
        adds_up: Whether its numbers are a sum over modules, what all of them share counted once. Not where modules
            share in groups: all that a part is on is then looked at together.
        hook: What it needs while it trains, by its name in `evaluators.hooks`; that of its type when empty.
        frozen: Containers of its tensors that stay as they were drawn, as LoRA-FA's `lora_A`.
        rewrites: Whether peft starts it by writing into the weights themselves, which must be its own by then.
        gated: Whether each layer's prefix has a gate, which peft does not know.
        quantised_only: Whether it starts from what quantisation took away from the weights.
        several_tasks: Whether it is for studies of several tasks, which it tells apart itself.
    """

    name: str
    title: str
    family: Family
    paper: str
    summary: str
    knobs: tuple[Knob, ...]
    placement: PlacementRule
    learning_rate: LogRange
    route: Route
    peft_type: str
    merges: bool
    config: Callable[[Part, Targets], Mapping[str, Any]]
    adds_up: bool = True
    hook: str = ""
    frozen: tuple[str, ...] = ()
    rewrites: bool = False
    gated: bool = False
    quantised_only: bool = False
    several_tasks: bool = False

    def __post_init__(self) -> None:
        if self.route == "inject" and not self.several_tasks and PER_TASK not in self.knobs:
            object.__setattr__(self, "knobs", (*self.knobs, PER_TASK))

    def knob(self, name: str) -> Knob:
        """Return a knob. Raises CandidateError when there is none of this name."""
        for knob in self.knobs:
            if knob.name == name:
                return knob
        names = [knob.name for knob in self.knobs]
        raise CandidateError(
            f"{self.name} has no knob {name!r}; allowed: {one_of(names) or 'none'}{did_you_mean(name, names)}"
        )

    def default_part(self) -> Part:
        """Return this method with every knob and the placement at its default."""
        return Part(self.name, tuple((knob.name, knob.default) for knob in self.knobs), self.placement.default)

    def check(self, part: Part) -> None:
        """Raise CandidateError unless `part` has exactly this method's knobs, each with an allowed value."""
        given = dict(part.knobs)
        for name, value in given.items():
            self.knob(name).check(self.name, value)
        missing = [knob.name for knob in self.knobs if knob.name not in given]
        if missing:
            raise CandidateError(f"{self.name}: {one_of(missing)} not set")
        if not self.placement.layers and part.placement.layers.kind != "all":
            raise CandidateError(f"{self.name} goes into all layers and takes no choice of them")
        if not self.placement.layers and any(isinstance(value, tuple) for _, value in part.knobs):
            raise CandidateError(f"{self.name} goes into all layers with one size, not one for each")
        if self.placement.fixed and part.placement.projections:
            raise CandidateError(f"{self.name} has its own place and takes no projections")
        if not self.placement.fixed and not part.placement.projections:
            raise CandidateError(f"{self.name} needs projections to be put on, such as {self.placement.default}")


def is_choice(knob: Knob) -> bool:
    """Whether a knob is a flag or a word of a method's own, which may make it another method."""
    return knob.low is None and knob is not PER_TASK


@cache
def methods() -> Mapping[str, Method]:
    """Return all methods by name, sorted. Raises ValueError when two share a name."""
    package = importlib.import_module("search_space.methods")
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(package.__path__):
        one: Method = importlib.import_module(f"search_space.methods.{module.name}").METHOD
        if one.name in found:
            raise ValueError(f"two methods are called {one.name!r}")
        found[one.name] = one
    return dict(sorted(found.items()))


def method(name: str) -> Method:
    """Return one method. Raises KeyError with the allowed names and the nearest one."""
    known = methods()
    if name in UNSUPPORTED:
        raise KeyError(f"{name} cannot be searched: {UNSUPPORTED[name]}; `paretune methods` lists those that can")
    if name in FORMS:
        raise KeyError(f"{name} is a form of a method: {FORMS[name]}; write that here")
    if name not in known:
        near = did_you_mean(name, (*known, *FORMS))
        raise KeyError(f"there is no method {name!r}; allowed: {one_of(known)}{near}")
    return known[name]
