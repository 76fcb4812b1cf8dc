"""What is proposed to a study from outside Optuna's samplers: what it begins with, and what a model promises."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from search_space.knobs import Holding, RandomChooser

FOREST = "forest"
"""Origin of what the forest promises."""
_POOL = 256
_FRESH = 8
_SIBLINGS = 64
_COUNTED = "trainable_params"
_FORETOLD = {one.name for one in fields(Cost)} - {_COUNTED}


class Proposals:
    """Candidates for one study, each by the number of the trial that it is for; the same again in a resumed study."""

    def __init__(self, spec: StudySpec, prepared: Prepared, beginnings: Sequence[Beginning] = ()) -> None:
        self.spec, self.prepared, self.beginnings = spec, prepared, beginnings
        self._layers = prepared.space.anatomy.n_layers
        self._seen: set[str] = set()
        self._options: deque[tuple[Candidate, Option]] = deque(maxlen=_POOL if prepared.points is None else None)
        self._drawn = 0
        self._foretold = [one.metric for one in spec.objectives if one.metric in _FORETOLD]

    def propose(self, number: int, trials: Sequence[Trial], taken: Collection[str]) -> Beginning | None:
        """Return the candidate for a trial and where it comes from; None where Optuna's sampler is to draw it.

        Args:
            number: Of the trial.
            trials: What was tried so far, in order.
            taken: Identities that were tried or rejected.
        """
        if number == 0 and (lora := self.prepared.space.plain_lora()) is not None:
            return Beginning(lora, "")
        free = [one for one in self.beginnings if one.candidate.sha256 not in taken]
        for source in dict.fromkeys(one.source for one in free):
            if not mistrusted(source, trials, self.spec.objectives, self.prepared.limits):
                return next(one for one in free if one.source == source)
        if self.spec.search.sampler != "forest":
            return None
        if 0 < number < self.spec.search.startup_trials:
            return None
        pool = [one for one in self._pool(number) if one[0].sha256 not in taken]
        return self._promised(pool, number, trials) if number else self._cheapest(pool)

    def sibling(
        self, number: int, trials: Sequence[Trial], taken: Collection[str], held: Mapping[str, str | int | float]
    ) -> Beginning | None:
        """Return a candidate that has some parameters, of those drawn at random the one that promises most.

        None where Optuna's sampler is to draw it. As for `propose`, but for what all of these have in common:

        Args:
            number: Of the trial.
            trials: What was tried so far, in order.
            taken: Identities that were tried or rejected.
            held: Parameters with their values.
        """
        if self.spec.search.sampler != "forest" or number < self.spec.search.startup_trials:
            return None
        chooser, fitting = Holding(RandomChooser(derived_seed(self.spec.search.seed, number)), held), self._fitting
        drawn = (self.prepared.space.draw(chooser) for _ in range(_SIBLINGS))
        fresh = {one.sha256: one for one in drawn if one.sha256 not in taken and fitting.fits(one)}
        return self._promised([pair for one in fresh.values() if (pair := self._option(one))], number, trials)

    def _promised(
        self, pool: Sequence[tuple[Candidate, Option]], number: int, trials: Sequence[Trial]
    ) -> Beginning | None:
        """Return the candidate of a pool that promises most within the limits; None where nothing can be told."""
        if not pool:
            return None
        ranked = self._forest.ranked(
            [option for _, option in pool], trials, derived_seed(self.spec.search.seed, number)
        )
        return self._affordable((pool[at][0] for at in ranked), FOREST)

    def _cheapest(self, pool: Sequence[tuple[Candidate, Option]]) -> Beginning | None:
        """Return the cheapest of a pool, by the study's first cost; None where no objective is known before training.

        Whatever it scores, it is on the front of what the pool holds.
        """
        cost = next((one.metric for one in self.spec.objectives if one.metric in {_COUNTED, *self._foretold}), None)
        if cost is None:
            return None
        return self._affordable((one for one, _ in sorted(pool, key=lambda pair: pair[1].costs[cost])), "")

    def _affordable(self, candidates: Iterable[Candidate], origin: str) -> Beginning | None:
        """Return the first of some candidates that is within the budgets; what these say takes long to find out."""
        found = next((one for one in candidates if self.prepared.affordable(one) is not None), None)
        return None if found is None else Beginning(found, origin)

    @cached_property
    def _forest(self) -> Forest:
        backbone = self.prepared.coster.parameters
        worst = reference_point(self.spec, self.prepared.limits, self.prepared.most_classes, backbone)
        return Forest(self.spec.objectives, worst, self._layers, self.prepared.limits)

    def _pool(self, number: int) -> Collection[tuple[Candidate, Option]]:
        """Return what may be proposed: a table's points, or the last draws within the budget of parameters.

        What the other budgets say takes long to find out, and is asked of what is promising only.
        """
        if self.prepared.points is not None:
            if not self._options:
                for one in self.prepared.points.candidates:
                    self._keep(one)
            return self._options
        while self._drawn < _POOL + _FRESH * number and (drawn := self._fitting.draw()) is not None:
            self._keep(drawn)
            self._drawn += 1
        return self._options

    @cached_property
    def _fitting(self) -> Fitting:
        return self.prepared.fitting(derived_seed(self.spec.search.seed, -1))

    def _keep(self, candidate: Candidate) -> None:
        if candidate.sha256 in self._seen:
            return
        if (pair := self._option(candidate)) is not None:
            self._seen.add(candidate.sha256)
            self._options.append(pair)

    def _option(self, candidate: Candidate) -> tuple[Candidate, Option] | None:
        """Return a candidate as an option; None where it cannot be attached or an objective cannot be foretold."""
        try:
            params = self.prepared.count(candidate)
            known = self.prepared.cost(candidate).values if self._foretold else {}
        except (UnsupportedError, PlacementError):
            return None
        if not all(name in known for name in self._foretold):
            return None
        costs = {_COUNTED: float(params), **{name: known[name] for name in self._foretold}}
        return candidate, Option.of(candidate, self._layers, costs)
