"""What of the recipe is searched: the `space.recipe` section, and the drawing from it.

These settings move calibration more than accuracy, which is why they can be searched. What is not listed stays at the
recipe's default, so a space without this section has the parameters and the size that it always had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import field_validator

from search_space.candidate import Recipe
from search_space.errors import CandidateError
from search_space.knobs import Chooser, LogRange, draw_one, encode_one
from search_space.strict import Strict

_MOST_VALUES = 200
_CHOSEN = ("label_smoothing", "dropout", "weight_decay", "mixup", "training_share")
"""Settings that are chosen from a list."""
_DEFAULT = Recipe((1.0,))
_HEAD = LogRange(*[_DEFAULT.head_learning_rate] * 3)


class RecipeSpec(Strict):
    """Which settings of the recipe are searched; a single number fixes one.

    Attributes:
        label_smoothing: Values to choose from, each in [0, 1).
        dropout: Values to choose from, each in [0, 1).
        weight_decay: Values to choose from, each at least 0.
        mixup: Values to choose from, each at least 0.
        training_share: Values to choose from, each in (0, 1].
        head_learning_rate: (low, high), searched on a logarithmic scale.
    """

    label_smoothing: tuple[float, ...] | None = None
    dropout: tuple[float, ...] | None = None
    weight_decay: tuple[float, ...] | None = None
    mixup: tuple[float, ...] | None = None
    training_share: tuple[float, ...] | None = None
    head_learning_rate: tuple[float, float] | None = None

    @field_validator(*_CHOSEN, mode="before")
    @classmethod
    def _read_values(cls, given: Any, info: Any) -> Any:
        if given is None:
            return None
        values = _numbers(given)
        if not 0 < len(values) <= _MOST_VALUES:
            raise ValueError(f"expected 1 to {_MOST_VALUES} values, not {len(values)}")
        if len(set(values)) != len(values):
            raise ValueError("a value is listed twice")
        for value in values:
            _check(info.field_name, value)
        return tuple(sorted(values))

    @field_validator("head_learning_rate", mode="before")
    @classmethod
    def _read_range(cls, given: Any) -> Any:
        if given is None:
            return None
        values = _numbers(given)
        if len(values) not in (1, 2):
            raise ValueError(f"expected [low, high] or one number, not {list(values)}")
        try:
            bounds = LogRange(values[0], values[-1], values[0])
        except CandidateError as error:
            raise ValueError(str(error)) from None
        return bounds.low, bounds.high

    def to_json(self) -> dict[str, Any]:
        """Return this section as it would be written in a study file."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: list(values) for name, values in given.items() if values is not None}


@dataclass(frozen=True)
class RecipeSpace:
    """What can be drawn of a recipe, apart from the learning rates of the parts.

    Attributes:
        label_smoothing: Values in rising order.
        dropout: Values in rising order.
        weight_decay: Values in rising order.
        mixup: Values in rising order.
        training_share: Values in rising order.
        head_learning_rate: A range; one number where it is fixed.
    """

    label_smoothing: tuple[float, ...] = (_DEFAULT.label_smoothing,)
    dropout: tuple[float, ...] = (_DEFAULT.dropout,)
    weight_decay: tuple[float, ...] = (_DEFAULT.weight_decay,)
    mixup: tuple[float, ...] = (_DEFAULT.mixup,)
    training_share: tuple[float, ...] = (_DEFAULT.training_share,)
    head_learning_rate: LogRange = _HEAD

    @classmethod
    def of(cls, spec: RecipeSpec | None) -> RecipeSpace:
        """Return the space that a section describes."""
        given = spec.model_dump(exclude_none=True) if spec else {}
        if "head_learning_rate" in given:
            given["head_learning_rate"] = _HEAD.narrowed(*given["head_learning_rate"])
        return cls(**given)

    @property
    def size(self) -> int:
        """Number of combinations, learning rates aside."""
        return math.prod(len(values) for _, values in self._choices())

    def draw(self, rates: tuple[float, ...], chooser: Chooser) -> Recipe:
        """Draw a recipe around the learning rates of the parts."""
        drawn = {name: draw_one(f"recipe.{name}", values, True, chooser) for name, values in self._choices()}
        head = self.head_learning_rate.draw("recipe.head_learning_rate", chooser)
        return Recipe(rates, head_learning_rate=head, **drawn)

    def default(self, rates: tuple[float, ...]) -> Recipe:
        """Return the recipe at its defaults, as near as this space comes to them."""
        nearest = {
            name: min(values, key=lambda value: abs(value - getattr(_DEFAULT, name)))
            for name, values in self._choices()
        }
        return Recipe(rates, head_learning_rate=self.head_learning_rate.default, **nearest)

    def encode(self, recipe: Recipe) -> dict[str, str | int | float]:
        """Return the parameters from which `draw` draws this recipe. ValueError when it is not in the space."""
        parameters: dict[str, str | int | float] = {}
        for name, values in self._choices():
            if getattr(recipe, name) not in values:
                raise ValueError(f"recipe.{name} {getattr(recipe, name)} is outside the space")
            parameters |= encode_one(f"recipe.{name}", values, True, getattr(recipe, name))
        bounds, rate = self.head_learning_rate, recipe.head_learning_rate
        if not bounds.low <= rate <= bounds.high:
            raise ValueError(f"recipe.head_learning_rate {rate} is outside the space")
        return parameters if bounds.low == bounds.high else {**parameters, "recipe.head_learning_rate": rate}

    def _choices(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        for name in _CHOSEN:
            yield name, getattr(self, name)


AT_DEFAULTS = RecipeSpace()


def _numbers(given: Any) -> tuple[float, ...]:
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"expected numbers, not {value!r}")
    return tuple(map(float, values))


def _check(name: str, value: float) -> None:
    setting: dict[str, Any] = {name: value}
    try:
        Recipe((1.0,), **setting)
    except CandidateError as error:
        raise ValueError(str(error).removeprefix("recipe: ")) from None
