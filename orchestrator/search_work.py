"""The jobs of a search: proposed by the sampler, screened by cost, stopped early by rungs, within the budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from evaluators.score import LASTING, Score
from orchestrator.beginnings import beginnings
from orchestrator.feasibility import commonest
from orchestrator.front import is_feasible
from orchestrator.jobs import Job
from orchestrator.proposals import Proposals
from orchestrator.rungs import Rungs
from orchestrator.samplers import build_sampler, derived_seed
from orchestrator.screening import MemoryFactor, Refusals, excesses, foreseen
from orchestrator.siblings import Siblings
from orchestrator.step_budget import SPENT, StepBudget
from orchestrator.storage import Trial
from orchestrator.work import Bench, PhaseWork, place_of
from search_space.budgets import violations, within
from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError

_MOST_REJECTED = 300


class SearchWork(PhaseWork):
    """Jobs that the sampler proposes, screened by cost, stopped early by rungs, bounded by budgets."""

    def __init__(self, bench: Bench, jobs: Iterable[Job], rungs: Rungs) -> None:
        super().__init__(bench, "search", jobs)
        self.rungs = rungs
        self._budgets = bench.store.spec.budgets
        trials = bench.store.trials()
        self._trained = sum(one.state != "infeasible" for one in trials)
        self._steps = StepBudget(self._budgets.steps, rungs.steps)
        self._unpaid: set[str] = set()
        self._lasting = {name: limit for name, limit in bench.prepared.limits.items() if name in LASTING}
        self._over: dict[str, str] = {}
        self._asked = len(bench.store.studies["search"].get_trials(deepcopy=False))
        self._known = {one.candidate.sha256: one.number for one in trials}
        self._tried = {one.number: one for one in trials}
        self._memory = MemoryFactor(self._budgets.memory_factor)
        self._refusals = Refusals(bench.prepared.limits)
        self._nothing_new = False
        self._siblings = Siblings(bench.store.spec, bench.prepared)
        self._proposals = Proposals(bench.store.spec, bench.prepared, beginnings(bench.store, bench.prepared))
        for trial in trials:
            feasible = is_feasible(trial, bench.prepared.limits)
            for score in (one for one in trial.scores if one.full or within(self._lasting, one.values)):
                rungs.record(trial.number, _with_predictions(score, trial), feasible=feasible)
            self._memory.note(trial)
            self._refusals.note(trial)
            self._siblings.note(trial)
            if trial.state != "running":
                self._steps.settled(trial)

    @property
    def left(self) -> int:
        """Trials that the budgets still pay for, running ones not counted."""
        return max(0, self._budgets.trials - self._trained) if self._steps.pays else 0

    def next_job(self) -> Job | None:
        """Return a job that waits, or a new one from the sampler while the budgets last; trial 0 goes before all."""
        while self.waiting and self._asked:
            job = self.waiting.popleft()
            if place_of(job)[0] != "search" or self._steps.begins(job.key):
                return self._begin(job)
            self._interrupt(job, SPENT)
        if not self.left or self._steps.holds:
            return None
        proposed = self._propose()
        if proposed is None:
            return None
        self._steps.begins(proposed.key)
        return self._begin(self._with_siblings(proposed))

    def more_later(self) -> bool:
        """Whether a candidate waits until the budget of steps pays for it beside those that run."""
        return self.left > 0 and self._steps.holds

    def on_score(self, job: Job, score: Score) -> bool:
        """Keep the score and say whether the candidate goes on."""
        score = self._keep(job, score)
        phase, number = place_of(job)
        if phase != "search":
            return True
        self._steps.reached(job.key, score.step)
        if not score.full and not within(self._lasting, score.values):
            self._leave(job, score)
            return False
        if not score.full:
            kept = self.rungs.goes_on(number, _with_predictions(score, self._tried[number]))
            return kept and self._paid(job, score)
        limits = self.bench.prepared.limits
        self.bench.store.constrain(number, violations(limits, score.values))
        trial = self._tried[number]
        self.rungs.record(number, _with_predictions(score, trial), feasible=is_feasible(trial, limits))
        return False

    def _leave(self, job: Job, score: Score) -> None:
        """Tell that a candidate is over a limit for good: no step more is spent on what cannot be on the front."""
        self.bench.store.constrain(place_of(job)[1], violations(self._lasting, score.values))
        self._over[job.key] = "over budget: " + ", ".join(excesses(self._lasting, score.values).values())

    def _paid(self, job: Job, score: Score) -> bool:
        if self._steps.goes_on(job.key, score):
            return True
        self._unpaid.add(job.key)
        return False

    def _why_stopped(self, job: Job) -> str:
        return self._over.get(job.key) or (SPENT if job.key in self._unpaid else super()._why_stopped(job))

    def _note(self, trial: Trial) -> None:
        """Keep what was tried, for what is proposed next."""
        super()._note(trial)
        if trial.phase == "search":
            self._tried[trial.number] = trial
            self._memory.note(trial)
            self._refusals.note(trial)
            self._siblings.note(trial)
            if trial.state != "running":
                self._steps.settled(trial)

    def _propose(self) -> Job | None:
        """Ask the sampler until a candidate is within budget and new; None when the space seems used up.

        Raises:
            EmptySpaceError: It gave none, and none was trained before.
        """
        nearest: tuple[float, str] | None = None
        for _ in range(_MOST_REJECTED):
            if self._used_up():
                break
            number, candidate, origin = self._ask()
            why, excess = self._screen(number, candidate, origin)
            if not why:
                self._trained += 1
                return self._job(number, candidate)
            self._tell(self.bench.store.finish("search", number, "infeasible", message=why))
            if excess is not None and (nearest is None or excess < nearest[0]):
                nearest = (excess, why)
        if self._trained == 0:
            self._refuse(nearest)
        return None

    def _with_siblings(self, job: Job) -> Job:
        """Return a job with others as mates that can share its forward pass, as many as the budgets pay for.

        What is drawn for it and has to be something else, to fit the budget of parameters or to be new, waits its turn.
        """
        wanted = self._siblings.wanted(job)
        held = self._siblings.held(job) if wanted else None
        mates: list[Job] = []
        for _ in range(wanted if held is not None else 0):
            if not self.left or self._steps.holds or self._used_up():
                break
            number, candidate, origin = self._ask(held)
            if why := self._screen(number, candidate, origin)[0]:
                self._tell(self.bench.store.finish("search", number, "infeasible", message=why))
                continue
            self._trained += 1
            other = self._job(number, candidate)
            if self._siblings.go_together(job, other):
                self._steps.begins(other.key)
                mates.append(other)
            else:
                self.waiting.append(other)
        return replace(job, mates=tuple(mates))

    def _refuse(self, nearest: tuple[float, str] | None) -> None:
        """Refuse a space that gave nothing to train, by the nearest to its budgets or the commonest reason."""
        many = len(self._tried)
        if nearest is not None:
            raise EmptySpaceError(
                f"none of {many} candidates fits the budgets; the nearest: {nearest[1]}. "
                "Raise that budget or narrow the space to smaller sizes and fewer layers"
            )
        reasons = Counter(one.message for one in self._tried.values())
        raise EmptySpaceError(f"space: no candidate of it can be trained: {commonest(reasons, many)}")

    def _ask(self, held: Mapping[str, str | int | float] | None = None) -> tuple[int, Candidate, str]:
        """Ask for a candidate; for one that has some parameters, where they are held."""
        space, store, tried = self.bench.prepared.space, self.bench.store, list(self._tried.values())
        sampler = build_sampler(store.spec.search, self._asked)
        if held is None:
            proposed = self._proposals.propose(self._asked, tried, self._known)
        else:
            proposed = self._proposals.sibling(self._asked, tried, self._known, held)
        self._asked += 1
        if proposed is None:
            return *store.ask(space, sampler, exchange=self._near, held=held), ""
        return *store.ask(space, sampler, self._near(proposed.candidate)), proposed.origin

    def _near(self, candidate: Candidate) -> Candidate:
        """Return the candidate if it fits the budget of parameters and is new, else one near it that does and is.

        Where a table is searched, the nearest of its points.
        """
        points, seed = self.bench.prepared.points, self.bench.store.spec.search.seed
        if points is not None:
            return points.nearest(candidate, self._known) or candidate
        fitting = self.bench.prepared.fitting(derived_seed(seed, self._asked), self._refusals.under(self._memory.value))
        found = fitting.near(candidate, self._known)
        self._nothing_new = found is None
        return found or candidate

    def _used_up(self) -> bool:
        points = self.bench.prepared.points
        if points is None:
            return self._nothing_new
        return all(one.sha256 in self._known for one in points.candidates)

    def _screen(self, number: int, candidate: Candidate, origin: str) -> tuple[str, float | None]:
        """Start a drawn trial in the storage. Returns why it is not trained, or an empty text, and its excess."""
        store, limits = self.bench.store, self.bench.prepared.limits
        seed = store.spec.search.seed
        try:
            cost = self.bench.prepared.cost(candidate, self._memory.value)
        except (UnsupportedError, PlacementError) as error:
            store.start(number, candidate, None, seed, {}, origin)
            return str(error), None
        known = foreseen(cost, self._memory.value)
        excess = violations(limits, known)
        store.start(number, candidate, cost, seed, excess, origin)
        if (earlier := self._known.setdefault(candidate.sha256, number)) != number:
            return f"the same candidate as trial {earlier}", None
        over = excesses(limits, known).values()
        return "over budget: " + ", ".join(over) if over else "", max(excess.values(), default=0.0)

    def _job(self, number: int, candidate: Candidate) -> Job:
        folder = self.bench.folder / "search" / str(number)
        store = self.bench.store
        cost = store.trial("search", number).cost
        parts = cost.accumulation if cost else None
        return Job(
            f"search/{number}", candidate, store.spec.search.seed, self.rungs.steps, str(folder), accumulation=parts
        )


def _with_predictions(score: Score, trial: Trial) -> Score:
    """Return a score with what was predicted of its candidate and is not measured at that rung: bytes, memory.

    So a rung knows more objectives. What lies between prediction and measurement counts as gained by training.
    """
    predicted = trial.cost.values if trial.cost else {}
    return replace(score, values={**predicted, **score.values})
