"""A candidate in numbers that mean the same for every method: what a model of its quality can learn from."""

from __future__ import annotations

from math import log10

from search_space.candidate import Candidate, Part
from search_space.placement import PROJECTIONS
from search_space.registry import method

_SETTINGS = ("weight_decay", "label_smoothing", "dropout", "mixup", "training_share")


def features(candidate: Candidate, n_layers: int) -> dict[str, float]:
    """Return named numbers; a name that is missing counts as 0.

    Which methods it has and where they go, how deep the lowest and the highest changed layer lie, how many layers are
    changed, and how far each learning rate is from its method's usual one. Sizes are not here: what a candidate costs
    says more.

    Args:
        candidate: Any candidate.
        n_layers: Layers of the model.
    """
    found: dict[str, float] = {"parts": float(len(candidate.parts))}
    layers: set[int] = set()
    for part in candidate.parts:
        found[f"method {part.method}"] = found.get(f"method {part.method}", 0.0) + 1.0
        found |= {f"on {name}": 1.0 for name in PROJECTIONS if name in part.placement.projections}
        found |= _flags(part)
        layers |= set(part.placement.layers.indices(n_layers))
    found |= {"lowest layer": min(layers) / n_layers, "highest layer": (max(layers) + 1) / n_layers}
    found["share of layers"] = len(layers) / n_layers
    return found | _rates(candidate)


def _flags(part: Part) -> dict[str, float]:
    """Return the knobs that make a method another one: flags that are set, and words."""
    words = {f"{part.method}.{name}={value}": 1.0 for name, value in part.knobs if isinstance(value, str)}
    flags = {f"{part.method}.{name}": 1.0 for name, value in part.knobs if value is True}
    return words | flags


def _rates(candidate: Candidate) -> dict[str, float]:
    recipe = candidate.recipe
    usual = [method(part.method).learning_rate.default for part in candidate.parts]
    apart = [log10(rate / one) for rate, one in zip(recipe.learning_rates, usual, strict=True)]
    own = {f"rate of {part.method}": one for part, one in zip(candidate.parts, apart, strict=True)}
    shared = {"lowest rate": min(apart), "highest rate": max(apart), "head's rate": log10(recipe.head_learning_rate)}
    others = {name: float(getattr(recipe, name)) for name in _SETTINGS}
    return own | shared | others
