"""An Optuna sampler as the space sees it. What it says is looked at before it is written down.

Optuna writes each parameter of a trial as it is suggested, and what is written stays. So a candidate is drawn from the
sampler first, may be exchanged for another one, and is then entered with the parameters that it really has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search_space.candidate import Candidate
from search_space.space import Space


class Sampled:
    """Gives what the sampler of a study says for a trial, and writes nothing."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial
        self._frozen = study._storage.get_trial(trial._trial_id)

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options."""
        return str(self._say(name, CategoricalDistribution(list(options))))

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""
        return int(self._say(name, IntDistribution(low, high)))

    def real(self, name: str, low: float, high: float) -> float:
        """Return a number in [low, high], on a logarithmic scale."""
        return float(self._say(name, FloatDistribution(low, high, log=True)))

    def _say(self, name: str, distribution: BaseDistribution) -> Any:
        relative = self._trial.relative_params
        if name in relative and distribution._contains(distribution.to_internal_repr(relative[name])):
            return relative[name]
        return self._study.sampler.sample_independent(self._study, self._frozen, name, distribution)


class Entered:
    """Gives parameters that are known, and keeps each with its distribution."""

    def __init__(self, parameters: Mapping[str, str | int | float]) -> None:
        self._parameters = parameters
        self.kept: dict[str, tuple[Any, BaseDistribution]] = {}

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return what is known."""
        return str(self._keep(name, CategoricalDistribution(list(options))))

    def integer(self, name: str, low: int, high: int) -> int:
        """Return what is known."""
        return int(self._keep(name, IntDistribution(low, high)))

    def real(self, name: str, low: float, high: float) -> float:
        """Return what is known."""
        return float(self._keep(name, FloatDistribution(low, high, log=True)))

    def _keep(self, name: str, distribution: BaseDistribution) -> Any:
        value = self._parameters[name]
        self.kept[name] = (value, distribution)
        return value


def enter(study: optuna.Study, trial: optuna.Trial, space: Space, candidate: Candidate) -> None:
    """Write the parameters of a candidate into a trial. One that is not in the space has none."""
    try:
        entered = Entered(space.encode(candidate))
    except ValueError:
        return
    space.draw(entered)
    for name, (value, distribution) in entered.kept.items():
        study._storage.set_trial_param(trial._trial_id, name, distribution.to_internal_repr(value), distribution)
