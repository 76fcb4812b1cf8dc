"""The `space` section of a study: a preset, narrowed or widened."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from search_space.errors import did_you_mean, one_of
from search_space.hybrid_spec import HybridSpec, read_hybrid
from search_space.method_spec import MOST_OPTIONS, MethodSpec, read_method, write_method
from search_space.recipes import RecipeSpec
from search_space.strict import Strict


class SpaceSpec(Strict):
    """The space of a study.

    In a study file each method's knobs stand beside `learning_rate`, `projections` and `layers`:
    `methods: {lora: {r: [4, 8], learning_rate: [1e-3, 5e-3], layers: [all, "top:3"]}}`.

    Attributes:
        preset: Where it starts from.
        methods: The methods that are searched; all of the preset's when None.
        hybrids: Hybrids that are searched beside them: `lora + bitfit`, with the settings of its methods, or one with
            parts of its own. When None the preset's: of the former those whose methods are searched, of the latter all.
        recipe: Settings of the recipe that are searched; all at their defaults when None.
    """

    preset: str = "default"
    methods: dict[str, MethodSpec] | None = None
    hybrids: Annotated[tuple[str | HybridSpec, ...], Field(max_length=MOST_OPTIONS)] | None = None
    recipe: RecipeSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"preset": data}
        return _completed(data) if isinstance(data, Mapping) else data

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in presets():
            raise ValueError(
                f"there is no preset {name!r}; allowed: {one_of(presets())}{did_you_mean(name, presets())}"
            )
        return name

    @field_validator("methods", mode="before")
    @classmethod
    def _read_methods(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            if not all(isinstance(name, str) for name in data):
                raise ValueError("expected names of methods, or a mapping from names to knobs")
            if len(set(data)) != len(data):
                raise ValueError("a method is listed twice")
            data = {name: {} for name in data}
        if not isinstance(data, Mapping):
            return data
        return dict(_read_all(data.items(), lambda name, given: (name, read_method(str(name), given))))

    @field_validator("hybrids", mode="before")
    @classmethod
    def _read_hybrids(cls, data: Any) -> Any:
        if not isinstance(data, list | tuple):
            return data
        hybrids = _read_all(enumerate(data), lambda _, hybrid: read_hybrid(hybrid))
        if len({str(one) for one in hybrids}) != len(hybrids):
            raise ValueError("a hybrid is listed twice; one with parts of its own needs a name of its own")
        return tuple(hybrids)

    def to_json(self) -> dict[str, Any]:
        """Return this spec as it would be written in a study file."""
        data: dict[str, Any] = {"preset": self.preset}
        if self.methods is not None:
            data["methods"] = {name: write_method(one) for name, one in self.methods.items()}
        if self.hybrids is not None:
            data["hybrids"] = [one if isinstance(one, str) else one.to_json() for one in self.hybrids]
        if self.recipe is not None:
            data["recipe"] = self.recipe.to_json()
        return data


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the presets by name."""
    package = importlib.import_module("search_space.presets")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return {name: importlib.import_module(f"search_space.presets.{name}").PRESET for name in names}


def _read_all(items: Iterable[tuple[Any, Any]], read: Callable[[Any, Any], Any]) -> list[Any]:
    """Read every item, and report the problems of all of them at once, each at its own path."""
    results, problems = [], []
    for key, value in items:
        try:
            results.append(read(key, value))
        except ValueError as error:
            problems.append((str(key), str(error)))
    if problems:
        raise PydanticCustomError("problems", "several problems", {"problems": problems})
    return results


def _completed(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fill what a hybrid leaves out from the preset's hybrid of that name."""
    preset, hybrids = data.get("preset", "default"), data.get("hybrids")
    if not isinstance(hybrids, list | tuple) or not isinstance(preset, str) or preset not in presets():
        return data
    own = {one["name"]: dict(one) for one in presets()[preset]["hybrids"] if isinstance(one, Mapping)}
    filled = [own.get(str(one.get("name")), {}) | dict(one) if isinstance(one, Mapping) else one for one in hybrids]
    return {**data, "hybrids": filled}
