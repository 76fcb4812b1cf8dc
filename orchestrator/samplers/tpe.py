"""Tree-structured Parzen estimators (Bergstra et al. 2011; several objectives: Ozaki et al. 2022).

Each method's own parameters are modelled together and apart from the others', as a conditional space wants it. Optuna
can do that too (`group=True`), but it draws from every group before it knows which of them the trial needs.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler."""
    return StagedTPE(seed=seed, n_startup_trials=startup_trials, multivariate=True, constant_liar=True)


_LEARNT = (TrialState.COMPLETE, TrialState.PRUNED)


class StagedTPE(optuna.samplers.TPESampler):
    """Draws a group of parameters when the first of them is asked for: those of one method."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._number = -1
        self._drawn: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: which groups a trial needs is known only while it is drawn."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter with its group, or take what was drawn with an earlier one."""
        if trial.number != self._number:
            self._number, self._drawn = trial.number, {}
        if param_name not in self._drawn:
            self._drawn |= self.sample_relative(study, trial, _group(study, param_name))
        if param_name in self._drawn:
            return self._drawn[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def _group(study: optuna.Study, name: str) -> dict[str, BaseDistribution]:
    """Return the group of a parameter as the last trial had it that learnt something; empty when there is none."""
    owner = _owner(name)
    for trial in reversed(study.get_trials(deepcopy=False)):
        if name in trial.distributions and trial.state in _LEARNT:
            pairs = sorted(trial.distributions.items())
            return {one: found for one, found in pairs if _owner(one) == owner and not found.single()}
    return {}


def _owner(name: str) -> str:
    """Return whose parameter it is: `lora` of `lora.r.index`, `lora.2` of `lora.2.r.index`, a method's second use."""
    head, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{head}.{number}" if number.isdigit() else head
