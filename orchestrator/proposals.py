"""What is proposed to a study from outside Optuna's samplers: what it begins with, and what a model promises."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cached_property

from evaluators.score import Cost
from orchestrator.beginnings import Beginning, mistrusted
from orchestrator.front import reference_point
from orchestrator.preparation import Prepared
from orchestrator.samplers import derived_seed
from orchestrator.samplers.forest import Forest, Option
from orchestrator.spec import StudySpec
from orchestrator.storage import Trial
from search_space.candidate import Candidate
from search_space.errors import PlacementError, UnsupportedError
from search_space.fitting import Fitting

FOREST = "forest"
"""Origin of what the forest promises."""
_POOL = 256
_FRESH = 8
_COUNTED = "trainable_params"
_FORETOLD = {one.name for one in fields(Cost)} - {_COUNTED}


class Proposals:
    """Candidates for one study, each by the number of the trial that it is for; the same again in a resumed study."""

    def __init__(self, spec: StudySpec, prepared: Prepared, beginnings: Sequence[Beginning] = ()) -> None:
        self.spec, self.prepared, self.beginnings = spec, prepared, beginnings
        self._layers = prepared.space.anatomy.n_layers
        self._options: dict[str, tuple[Candidate, Option]] = {}
        self._drawn = 0
        self._foretold = [one.metric for one in spec.objectives if one.metric in _FORETOLD]

    def propose(self, number: int, trials: Sequence[Trial], taken: Collection[str]) -> Beginning | None:
        """Return the candidate for a trial and where it comes from; None where Optuna's sampler is to draw it.

        Args:
            number: Of the trial.
            trials: What was tried so far, in order.
            taken: Identities that were tried or rejected.
        """
        if number == 0:
            return Beginning(self.prepared.space.first(), "")
        free = [one for one in self.beginnings if one.candidate.sha256 not in taken]
        for source in dict.fromkeys(one.source for one in free):
            if not mistrusted(source, trials, self.spec.objectives, self.prepared.limits):
                return next(one for one in free if one.source == source)
        if self.spec.search.sampler != "forest" or number < self.spec.search.startup_trials:
            return None
        pool = [self._options[key] for key in self._pool(number) if key not in taken]
        if not pool:
            return None
        ranked = self._forest.ranked(
            [option for _, option in pool], trials, derived_seed(self.spec.search.seed, number)
        )
        promised = (pool[at][0] for at in ranked)
        best = next((one for one in promised if self.prepared.affordable(one) is not None), None)
        return None if best is None else Beginning(best, FOREST)

    @cached_property
    def _forest(self) -> Forest:
        backbone = self.prepared.coster.parameters
        worst = reference_point(self.spec, self.prepared.limits, self.prepared.most_classes, backbone)
        return Forest(self.spec.objectives, worst, self._layers, self.prepared.limits)

    def _pool(self, number: int) -> list[str]:
        """Return the identities that may be proposed: a table's points, or draws within the budget of parameters.

        What the other budgets say takes long to find out, and is asked of what is promising only.
        """
        if self.prepared.points is not None:
            if not self._options:
                for one in self.prepared.points.candidates:
                    self._keep(one)
            return list(self._options)
        while self._drawn < _POOL + _FRESH * number and (drawn := self._fitting.draw()) is not None:
            self._keep(drawn)
            self._drawn += 1
        return list(self._options)[-_POOL:]

    @cached_property
    def _fitting(self) -> Fitting:
        return self.prepared.fitting(derived_seed(self.spec.search.seed, -1))

    def _keep(self, candidate: Candidate) -> None:
        """Keep a candidate as an option, unless it cannot be attached or an objective cannot be foretold."""
        try:
            params = self.prepared.count(candidate)
            known = self.prepared.cost(candidate).values if self._foretold else {}
        except (UnsupportedError, PlacementError):
            return
        if all(name in known for name in self._foretold):
            costs = {_COUNTED: float(params), **{name: known[name] for name in self._foretold}}
            self._options[candidate.sha256] = (candidate, Option.of(candidate, self._layers, costs))
