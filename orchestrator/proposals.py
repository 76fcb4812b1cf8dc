"""What a study does next, from outside Optuna's samplers: what it begins with, what a model promises, who goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property

from evaluators.score import Cost
from orchestrator.beginnings import Beginning, mistrusted
from orchestrator.expected_volume import Option
from orchestrator.front import reference_point
from orchestrator.preparation import Prepared
from orchestrator.samplers import derived_seed
from orchestrator.samplers.forest import Forest
from orchestrator.spec import StudySpec
from orchestrator.trial import Trial
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

    def propose(
        self, number: int, trials: Sequence[Trial], taken: Collection[str], paused: Sequence[Trial] = ()
    ) -> Beginning | Trial | None:
        """Return the candidate for a trial and where it comes from; None where Optuna's sampler is to draw it.

        Where one of the trials that pause promises more than a new one, that is returned.

        Args:
            number: Of the trial.
            trials: What was tried so far, in order.
            taken: Identities that were tried or rejected.
            paused: Those of the trials that could go on.
        """
        if number == 0 and (lora := self.prepared.space.plain_lora()) is not None:
            return Beginning(lora, "")
        free = [one for one in self.beginnings if one.candidate.sha256 not in taken]
        for source in dict.fromkeys(one.source for one in free):
            if not mistrusted(source, trials, self.spec.objectives, self.prepared.limits):
                return next(one for one in free if one.source == source)
        if self.spec.search.sampler != "forest":
            return None
        if 0 < number < self.spec.startup_trials:
            return None
        pool = [one for one in self._pool(number) if one[0].sha256 not in taken]
        return self._promised(pool, number, trials, paused) if number else self._cheapest(pool)

    def who_goes_on(self, number: int, trials: Sequence[Trial], paused: Sequence[Trial]) -> Trial:
        """Return the one of some trials that pause that promises most; the first where nothing can be told.

        Args:
            number: Of the trial that would be next.
            trials: What was tried so far, in order.
            paused: Those of them that could go on, at least one.
        """
        ranked = self._forest.ranked([], trials, self._seed(number, trials), paused)
        return paused[ranked[0]] if ranked else paused[0]

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
        if self.spec.search.sampler != "forest" or number < self.spec.startup_trials:
            return None
        chooser, fitting = Holding(RandomChooser(derived_seed(self.spec.search.seed, number)), held), self._fitting
        drawn = (self.prepared.space.draw(chooser) for _ in range(_SIBLINGS))
        fresh = {one.sha256: one for one in drawn if one.sha256 not in taken and fitting.fits(one)}
        found = self._promised([pair for one in fresh.values() if (pair := self._option(one))], number, trials, ())
        return found if isinstance(found, Beginning) else None

    def _promised(
        self, pool: Sequence[tuple[Candidate, Option]], number: int, trials: Sequence[Trial], paused: Sequence[Trial]
    ) -> Beginning | Trial | None:
        """Return what promises most within the limits of a pool and of those that pause; None where nothing tells."""
        if not pool:
            return None
        ranked = self._forest.ranked([option for _, option in pool], trials, self._seed(number, trials), paused)
        for at in ranked:
            if at >= len(pool):
                return paused[at - len(pool)]
            if (found := self._affordable([pool[at][0]], FOREST)) is not None:
                return found
        return None

    def _seed(self, number: int, trials: Sequence[Trial]) -> int:
        """Return the seed of a decision. Where candidates pause, several are made before one more trial begins."""
        seed = derived_seed(self.spec.search.seed, number)
        return derived_seed(seed, sum(len(one.scores) for one in trials)) if self.spec.pauses else seed

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
        costs = [_COUNTED, *self._foretold]
        return Forest(self.spec.objectives, worst, self._layers, costs, self.prepared.limits)

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
