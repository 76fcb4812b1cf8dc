"""NSGA-II (Deb et al. 2002), with a population that fits budgets of about a hundred trials.

Generations and survivors are Optuna's. Its children have only those parameters that all trials share: in a space of
many methods that is the composition alone, which then is always mutated. So children are made here: a child has the
composition of one parent, and each parameter from either parent that has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import optuna
from optuna.samplers.nsgaii._constraints_evaluation import _constrained_dominates
from optuna.study._constrained_optimization import _is_constrained_optimization
from optuna.study._multi_objective import _dominates
from optuna.trial import FrozenTrial

_POPULATION = 12
_CROSSED, _SWAPPED = 0.9, 0.5
"""How often two parents are crossed, and how often a parameter then is the second's."""


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; its first population is its start-up, however many trials that was to be."""
    return optuna.samplers.NSGAIISampler(
        seed=seed, population_size=_POPULATION, child_generation_strategy=Children(seed)
    )


class Children:
    """Makes children of candidates that need not have the same parameters."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311  (a search, not a secret)

    def __call__(self, study: optuna.Study, search_space: object, population: list[FrozenTrial]) -> dict[str, Any]:
        """Return the parameters of a child; what it lacks is mutated: the space draws it at random."""
        parents = [one for one in population if one.params]
        if not parents:
            return {}
        child, other = dict(self._winner(study, parents).params), self._winner(study, parents).params
        if self._random.random() < _CROSSED:
            shared = [name for name in child if name in other and name != "composition"]
            child |= {name: other[name] for name in shared if self._random.random() < _SWAPPED}
        return {name: value for name, value in child.items() if self._random.random() >= 1.0 / len(child)}

    def _winner(self, study: optuna.Study, parents: Sequence[FrozenTrial]) -> FrozenTrial:
        """Return the better of two parents, or the first of them."""
        first, second = self._random.choice(parents), self._random.choice(parents)
        dominates = _constrained_dominates if _is_constrained_optimization(list(parents)) else _dominates
        return second if dominates(second, first, study.directions) else first
