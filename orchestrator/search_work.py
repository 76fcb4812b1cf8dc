"""The jobs of a search: proposed by the sampler, screened by cost, stopped early by rungs, within the budgets."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from evaluators.evaluation import PAUSED_FILE
from evaluators.score import LASTING, Score
from orchestrator.beginnings import Beginning, beginnings
from orchestrator.feasibility import commonest
from orchestrator.front import is_feasible
from orchestrator.jobs import Failure, Job
from orchestrator.proposals import Proposals
from orchestrator.rungs import Rungs
from orchestrator.samplers import build_sampler, derived_seed
from orchestrator.screening import MemoryFactor, Refusals, excesses, foreseen
from orchestrator.siblings import Siblings
from orchestrator.step_budget import SPENT, StepBudget
from orchestrator.trial import Trial
from orchestrator.work import STOPPED, Bench, PhaseWork, place_of
from search_space.budgets import violations, within
from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError

_MOST_REJECTED = 300
_MOST_KEPT_BYTES = 16 * 2**30
_KEPT_BYTES_PER_PARAMETER = 12
"""Of what pauses: the weight and two moments of AdamW, in float32."""


class SearchWork(PhaseWork):
    """Jobs that the sampler proposes, screened by cost, stopped early by rungs, bounded by budgets.

    Args:
        bench: What all phases share. Trials that were cut off are trained before all else.
        jobs: What is trained beside the search: references.
        rungs: Of the study.
    """

    def __init__(self, bench: Bench, jobs: Iterable[Job], rungs: Rungs) -> None:
        super().__init__(bench, "search", jobs)
        self.rungs = rungs
        self._budgets = bench.store.spec.budgets
        trials = bench.store.trials()
        self._trained = sum(one.state != "infeasible" for one in trials)
        self._steps = StepBudget(self._budgets.steps, rungs.steps, pauses=bench.store.spec.pauses)
        self._pauses = bench.store.spec.pauses
        self._grace = bench.store.spec.search.early_stopping.grace
        self._pausing: set[str] = set()
        self._unpaid: set[str] = set()
        self._lasting = {name: limit for name, limit in bench.prepared.limits.items() if name in LASTING}
        self._over: dict[str, str] = {}
        self._asked = len(bench.store.studies["search"].get_trials(deepcopy=False))
        self._known = {one.candidate.sha256: one.number for one in trials}
        self._tried = {one.number: one for one in trials}
        self._memory = MemoryFactor(self._budgets.memory_factor)
        self._refusals = Refusals(bench.prepared.limits)
        self._nothing_new = False
        self._gave_up = False
        self._siblings = Siblings(bench.store.spec, bench.prepared)
        self._proposals = Proposals(bench.store.spec, bench.prepared, beginnings(bench.store, bench.prepared))
        for trial in trials:
            feasible = is_feasible(trial, bench.prepared.limits)
            for score in (one for one in trial.scores if one.full or within(self._lasting, one.values)):
                rungs.record(trial.number, _with_predictions(score, trial), feasible=feasible)
            self._memory.note(trial)
            self._refusals.note(trial)
            self._siblings.note(trial)
            self._count_steps(trial)
            self._let_go(trial)
        cut_off = [one for one in trials if one.state == "running"]
        jobs = [self._job(one) for one in cut_off]
        self.waiting = deque([*jobs, *self.waiting])
        for trial, job in zip(cut_off, jobs, strict=True):
            if job.goes_on:
                self._steps.pauses(trial)

    @property
    def left(self) -> int:
        """Trials that the budgets still pay for, running ones not counted."""
        return max(0, self._budgets.trials - self._trained) if self._steps.pays else 0

    @property
    def planned(self) -> int:
        """Trials that wait, that pause, and that the budgets still pay for."""
        return len(self.waiting) + len(self._paused()) + self.left

    def next_job(self) -> Job | None:
        """Return a job that waits, or what the sampler wants while the budgets last; trial 0 goes before all."""
        while self.waiting and self._asked:
            job = self.waiting.popleft()
            if place_of(job)[0] != "search" or self._is_paid_for(job):
                return self._begin(job)
            if job.keeps and job.goes_on:
                self._note(self.bench.store.pause(place_of(job)[1]))
            else:
                self._interrupt(job, SPENT)
        if self._steps.holds:
            return None
        chosen: Job | Trial | None = self._first_to_go_on()
        if chosen is None and self.left and not self._gave_up:
            chosen = self._propose()
        if chosen is None:
            chosen = self._last_to_go_on()
        if isinstance(chosen, Trial):
            job = self._job(self.bench.store.resume(chosen.number))
            self._steps.resumes(chosen, pauses=job.keeps)
            return self._begin(job)
        if chosen is None:
            return None
        self._steps.begins(chosen.key, pauses=chosen.keeps and not self._siblings.wanted(chosen))
        return self._begin(self._with_siblings(chosen))

    def more_later(self) -> bool:
        """Whether one waits until the budget of steps pays for it beside those that run, or may go on after them."""
        return (self.left > 0 and self._steps.holds) or (self._pauses and bool(self.running))

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
        trial = self._tried[number]
        known = _with_predictions(score, trial)
        if job.keeps and self.rungs.pauses(known):
            self.rungs.record(number, known)
            self._pausing.add(job.key)
            return False
        if not score.full:
            return self.rungs.goes_on(number, known) and self._paid(job, score)
        limits = self.bench.prepared.limits
        self.bench.store.constrain(number, violations(limits, score.values))
        self.rungs.record(number, known, feasible=is_feasible(trial, limits))
        return False

    def on_end(self, job: Job, failure: Failure | None) -> None:
        """Settle the trial, or let it wait at its rung."""
        if failure is not None or job.key not in self._pausing:
            super().on_end(job, failure)
            return
        self._pausing.remove(job.key)
        self.running.pop(job.key)
        self._note(self.bench.store.pause(place_of(job)[1]))

    def settle(self) -> None:
        """At the end of the search: settle what was running and what pauses, as far as it came."""
        super().settle()
        for trial in self._paused():
            unpaid = self._is_within_reach(trial) and not self._steps.pays_for(trial)
            why = self.bench.stop.reason or (SPENT if unpaid else "")
            message = ": ".join(filter(None, [STOPPED, why]))
            self._tell(self.bench.store.finish("search", trial.number, "partial", message=message))

    def _is_paid_for(self, job: Job) -> bool:
        """Reserve the steps of a job that was cut off. Returns whether the budget pays for them."""
        if not job.goes_on:
            return self._steps.begins(job.key, pauses=job.keeps)
        trial = self._tried[place_of(job)[1]]
        paid = self._steps.pays_for(trial)
        if paid:
            self._steps.resumes(trial, pauses=job.keeps)
        return paid

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
        if trial.phase == "search":
            self._tried[trial.number] = trial
            self._memory.note(trial)
            self._refusals.note(trial)
            self._siblings.note(trial)
            self._count_steps(trial)
            self._let_go(trial)
        super()._note(trial)

    def _let_go(self, trial: Trial) -> None:
        """Delete what is kept of a trial that is settled; a driver may have been killed before it did."""
        if trial.is_settled:
            (self._folder(trial.number) / PAUSED_FILE).unlink(missing_ok=True)

    def _count_steps(self, trial: Trial) -> None:
        if trial.state == "paused":
            self._steps.pauses(trial)
        elif trial.is_settled:
            self._steps.settled(trial)

    def _paused(self) -> list[Trial]:
        return [one for one in self._tried.values() if one.state == "paused"]

    def _paid_for(self) -> list[Trial]:
        """Return who pauses and has its way to the end paid for."""
        return [one for one in self._paused() if self._steps.pays_for(one)]

    def _best(self, paused: list[Trial]) -> Trial | None:
        """Return who promises most of some that pause, or None of none."""
        return self._proposals.who_goes_on(self._asked, list(self._tried.values()), paused) if paused else None

    def _first_to_go_on(self) -> Trial | None:
        """Return who goes on before anything new begins: what is gained up to the end nobody knows before some ended.

        None until one more was looked at than these are.
        """
        ended = sum(one.state == "complete" for one in self._tried.values())
        searched = [one for one in self.running.values() if place_of(one)[0] == "search"]
        on_their_way = sum(one.goes_on or not one.keeps for one in searched)
        if self._trained <= self._grace or ended + on_their_way >= self._grace:
            return None
        return self._best(self._paid_for())

    def _last_to_go_on(self) -> Trial | None:
        """Return who goes on of those that pause when nothing new is begun: who is within reach and paid for."""
        return self._best([one for one in self._paid_for() if self._is_within_reach(one)])

    def _is_within_reach(self, trial: Trial) -> bool:
        assert trial.score is not None
        return self.rungs.is_kept(trial.number, _with_predictions(trial.score, trial))

    def _propose(self) -> Job | Trial | None:
        """Ask until a candidate is within budget and new, or one that pauses promises more; None at the space's end.

        Raises:
            EmptySpaceError: It gave none, and none was trained before.
        """
        nearest: tuple[float, str] | None = None
        for _ in range(_MOST_REJECTED):
            if self._used_up():
                break
            asked = self._ask()
            if isinstance(asked, Trial):
                return asked
            number, candidate, origin = asked
            why, excess = self._screen(number, candidate, origin)
            if not why:
                self._trained += 1
                return self._job(self.bench.store.trial("search", number))
            self._tell(self.bench.store.finish("search", number, "infeasible", message=why))
            if excess is not None and (nearest is None or excess < nearest[0]):
                nearest = (excess, why)
        if self._trained == 0:
            self._refuse(nearest)
        self._gave_up = True
        return None

    def _with_siblings(self, job: Job) -> Job:
        """Return a job with others as mates that can share its forward pass, as many as the budgets pay for.

        What is drawn for it and has to be something else, to fit the budget of parameters or to be new, waits its turn.
        """
        wanted = self._siblings.wanted(job)
        held = self._siblings.held(job) if wanted else None
        mates: list[Job] = []
        for _ in range(wanted):
            if held is None or not self.left or self._steps.holds or self._used_up():
                break
            number, candidate, origin = self._ask_sibling(held)
            if why := self._screen(number, candidate, origin)[0]:
                self._tell(self.bench.store.finish("search", number, "infeasible", message=why))
                continue
            self._trained += 1
            other = self._job(self.bench.store.trial("search", number))
            if self._siblings.go_together(job, other):
                self._steps.begins(other.key)
                mates.append(replace(other, keeps=False))
            else:
                self.waiting.append(other)
        return replace(job, mates=tuple(mates), keeps=False) if mates else job

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

    def _ask(self) -> tuple[int, Candidate, str] | Trial:
        """Ask for a candidate, or for one of those that pause."""
        proposed = self._proposals.propose(self._asked, list(self._tried.values()), self._known, self._paid_for())
        return proposed if isinstance(proposed, Trial) else self._enter(proposed)

    def _ask_sibling(self, held: Mapping[str, str | int | float]) -> tuple[int, Candidate, str]:
        """Ask for a candidate that has some parameters."""
        return self._enter(self._proposals.sibling(self._asked, list(self._tried.values()), self._known, held), held)

    def _enter(
        self, proposed: Beginning | None, held: Mapping[str, str | int | float] | None = None
    ) -> tuple[int, Candidate, str]:
        """Enter what was proposed as a trial, or what Optuna's sampler draws. Returns its number and origin too."""
        space, store = self.bench.prepared.space, self.bench.store
        sampler = build_sampler(store.spec, self._asked)
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

    def _job(self, trial: Trial) -> Job:
        """Return the job of a trial: all of its training, or what follows the rung that it came to.

        One that was cut off behind its last rung is trained again: it has its end, and does not pause on its way there.
        """
        reached = round(trial.score.fidelity * self.rungs.steps[-1]) if self._pauses and trial.score is not None else 0
        rungs = tuple(step for step in self.rungs.steps if step > reached)
        return Job(
            trial.key, trial.candidate, trial.seed, rungs or self.rungs.steps, str(self._folder(trial.number)),
            accumulation=trial.cost.accumulation if trial.cost else None,
            keeps=bool(self._pauses and rungs and self._can_be_kept(trial)), goes_on=bool(reached and rungs),
        )  # fmt: skip

    def _can_be_kept(self, trial: Trial) -> bool:
        """Whether a trial may pause: it is not the first, which gives a front, and there is room for what it has.

        That is beside what pauses, and what runs and may pause as well.
        """
        first = all(one.state == "infeasible" for one in self._tried.values() if one.number < trial.number)
        kept = {one.number for one in self._paused()} | {place_of(one)[1] for one in self.running.values() if one.keeps}
        others = [self._tried[number] for number in kept - {trial.number}]
        return not first and sum(map(_kept_bytes, [*others, trial])) <= _MOST_KEPT_BYTES

    def _folder(self, number: int) -> Path:
        return self.bench.folder / "search" / str(number)


def _kept_bytes(trial: Trial) -> int:
    cost = trial.cost
    return 0 if cost is None else _KEPT_BYTES_PER_PARAMETER * (cost.trainable_params + cost.head_params)


def _with_predictions(score: Score, trial: Trial) -> Score:
    """Return a score with what was predicted of its candidate and is not measured at that rung: bytes, memory.

    So a rung knows more objectives. What lies between prediction and measurement counts as gained by training.
    """
    predicted = trial.cost.values if trial.cost else {}
    return replace(score, values={**predicted, **score.values})
