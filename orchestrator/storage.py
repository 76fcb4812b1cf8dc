"""Optuna's door: the storage is the truth about trials. Specs, candidates, rung scores and states live here.

A study has three phases, each an Optuna study of its own, so that samplers see the search alone:
`NAME` (search), `NAME/references` (head only, full fine-tuning) and `NAME/finalists` (the front on fresh seeds).
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import Engine

from evaluators.score import Cost, Score
from orchestrator.database import connect, hold
from orchestrator.drawing import Sampled, enter
from orchestrator.spec import StudySpec, parse
from orchestrator.trial import PHASES, Phase, State, Trial
from search_space.candidate import Candidate
from search_space.errors import Cause, StudyError, StudyExistsError, StudyNotFoundError, did_you_mean
from search_space.knobs import Holding
from search_space.space import Space

_OPTUNA_STATE = {
    "complete": TrialState.COMPLETE,
    "partial": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_PAUSED = "paused"
"""Attribute of a trial that waits at a rung: for Optuna it runs."""
_TOLD = dict(zip(TrialState, TrialState, strict=True)) | {TrialState.FAIL: TrialState.PRUNED}
"""What samplers are told: they learn nothing from a failed trial, and would propose it for ever."""

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


IN_MEMORY = "memory:"
"""URL of a storage that ends with its process: for simulations."""


class Storage:
    """All studies behind one Optuna storage URL, or in this process's memory."""

    def __init__(self, url: str) -> None:
        self.url = url
        if url == IN_MEMORY:
            self.optuna: optuna.storages.BaseStorage = optuna.storages.InMemoryStorage()
            self._engine: Engine | None = None
            return
        rdb = connect(url)
        self._engine = rdb.engine
        self.optuna = optuna.storages.get_storage(rdb)

    def drive(self, name: str) -> AbstractContextManager[None]:
        """Hold a study's lock in the storage, for drivers on other machines. Raises StudyLockedError."""
        return nullcontext() if self._engine is None else hold(self._engine, name)

    def names(self) -> list[str]:
        """Return the names of all studies, the oldest first."""
        studies = sorted(self.optuna.get_all_studies(), key=lambda one: one._study_id)
        return [one.study_name for one in studies if "paretune" in one.user_attrs]

    def create(self, spec: StudySpec) -> StudyStore:
        """Create a study, or open it when one of this name and an equal spec exists.

        Raises:
            StudyExistsError: One of this name exists with another spec.
        """
        directions = [objective.direction for objective in spec.objectives]
        try:
            for phase in reversed(PHASES):
                study = optuna.create_study(
                    storage=self.optuna, study_name=_optuna_name(spec.name, phase), directions=directions,
                    load_if_exists=phase != "search",
                )  # fmt: skip
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=spec.name, storage=self.optuna)
        if "paretune" in study.user_attrs:
            store = self.open(spec.name)
            if store.spec.sha256 != spec.sha256:
                raise StudyExistsError(
                    f"a study {spec.name!r} exists with another spec; give this one another name "
                    "(only budgets of trials, time and steps and the resources may change)"
                ) from None
        study.set_user_attr("paretune", {"spec": spec.to_json(), "sha256": spec.sha256})
        return StudyStore(self, spec.name)

    def open(self, name: str) -> StudyStore:
        """Open a study. Raises StudyNotFoundError with the nearest name."""
        names = self.names()
        if name not in names:
            raise StudyNotFoundError(
                f"there is no study {name[:80]!r}{did_you_mean(name, names)}; `paretune ls` lists them"
            )
        return StudyStore(self, name)


class StudyStore:
    """One study in the storage. Only the driver that holds the study's lock writes trials.

    So the driver need not read what it wrote: the trials that it runs are kept here, and the search stands in memory
    too, for the samplers, who read all trials for each parameter that they draw. Every write is in the storage before
    its call returns.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.studies = {
            phase: optuna.load_study(study_name=_optuna_name(name, phase), storage=storage.optuna) for phase in PHASES
        }
        self._sampled: optuna.Study | None = None
        self._running: dict[tuple[Phase, int], Trial] = {}
        self._settled: dict[tuple[Phase, int], Trial] = {}

    @cached_property
    def spec(self) -> StudySpec:
        """The study's spec."""
        return parse(self._search.user_attrs["paretune"]["spec"], f"study {self.name}")

    @property
    def _search(self) -> optuna.Study:
        return self.studies["search"]

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value about the study: `status`, `environment`, `backbone`, `reference_point`, `stop`."""
        self._search.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        """Return a value kept by `note`, read afresh, or None."""
        return self.storage.optuna.get_study_user_attrs(self._search._study_id).get(key)

    def trials(self, phase: Phase = "search") -> list[Trial]:
        """Return the trials of a phase in order of their numbers."""
        trials = self.studies[phase].get_trials(deepcopy=False)
        return [self._parsed(phase, one) for one in trials if "candidate" in one.user_attrs]

    def trial(self, phase: Phase, number: int) -> Trial:
        """Return one trial. Raises StudyNotFoundError."""
        if known := self._running.get((phase, number)):
            return known
        try:
            one = self.storage.optuna.get_trial(self._id(phase, number))
        except KeyError:
            one = None
        if one is None or "candidate" not in one.user_attrs:
            raise StudyNotFoundError(
                f"study {self.name!r} has no trial {number} in {phase}; `paretune show {self.name}`"
            )
        return self._parsed(phase, one)

    def ask(
        self,
        space: Space,
        sampler: optuna.samplers.BaseSampler,
        fixed: Candidate | None = None,
        exchange: Callable[[Candidate], Candidate] = lambda drawn: drawn,
        held: Mapping[str, str | int | float] | None = None,
    ) -> tuple[int, Candidate]:
        """Draw a candidate with a sampler, or enter a given one as if it had been drawn. Returns its trial's number.

        The trial is in memory only until it is started, which must be before the next one is asked for.

        Args:
            space: What is drawn from.
            sampler: Draws.
            fixed: Taken instead of a draw; it may be from outside the space.
            exchange: Gives another candidate for the one that was drawn: a point of a table near it.
            held: Parameters that the sampler is not asked for, with their values.
        """
        sampled = self._in_memory()
        sampled.sampler = sampler
        trial = sampled.ask()
        candidate = fixed or exchange(space.draw(Holding(Sampled(sampled, trial), held or {})))
        enter(sampled, trial, space, candidate)
        return trial.number, candidate

    def start(
        self,
        number: int,
        candidate: Candidate,
        cost: Cost | None,
        seed: int,
        violations: Mapping[str, float],
        origin: str = "",
    ) -> Trial:
        """Write an asked trial to the storage, all of it at once, before it is trained.

        Raises:
            StudyError: Another process wrote trials of this study meanwhile.
        """
        assert self._sampled is not None
        live = _live(self._sampled, number)
        for name, value in violations.items():
            live.set_constraint(f"predicted {name}", value)
        live.set_user_attr("candidate", _about(candidate, cost, seed, origin))
        drawn = self._sampled.get_trials(deepcopy=False)[number]
        self._create("search", number, drawn)
        trial = self._running["search", number] = _read("search", drawn)
        return trial

    def add(self, phase: Phase, candidate: Candidate, cost: Cost | None, seed: int, origin: str) -> int:
        """Enter a reference or a finalist as running. Returns its number."""
        attrs = {"candidate": _about(candidate, cost, seed, origin)}
        number = len(self.studies[phase].get_trials(deepcopy=False))
        self._create(phase, number, create_trial(state=TrialState.RUNNING, user_attrs=attrs))
        return number

    def report(self, phase: Phase, number: int, score: Score) -> Trial:
        """Keep the score of a rung. Writing the same rung again replaces it."""
        trial = self.trial(phase, number)
        if score.split == "test":
            self._set(phase, number, "test", score.to_json())
            trial = replace(trial, test=score)
        else:
            self._set(phase, number, f"score:{score.step}", score.to_json())
            others = (one for one in trial.scores if one.step != score.step)
            trial = replace(trial, scores=tuple(sorted((*others, score), key=lambda one: one.step)))
        self._running[phase, number] = trial
        return trial

    def constrain(self, number: int, violations: Mapping[str, float]) -> None:
        """Keep measured constraints of a search trial: value / limit - 1. What was measured before stays."""
        sampled = self._in_memory()
        live, constrained = _live(sampled, number), sampled.get_trials(deepcopy=False)[number].constraints
        before = set(live.storage.get_trial_system_attrs(live._trial_id))
        for name, value in violations.items():
            if f"measured {name}" not in constrained:
                live.set_constraint(f"measured {name}", value)
        for key, value in live.storage.get_trial_system_attrs(live._trial_id).items():
            if key not in before:
                self.storage.optuna.set_trial_system_attr(self._id("search", number), key, value)

    def pause(self, number: int) -> Trial:
        """Let a running trial of the search wait at the rung that it reached."""
        return self._set_paused(number, "paused")

    def resume(self, number: int) -> Trial:
        """Let a trial of the search that waits at a rung run again."""
        return self._set_paused(number, "running")

    def finish(self, phase: Phase, number: int, state: State, cause: Cause | None = None, message: str = "") -> Trial:
        """Settle the state of a running trial. A complete trial needs its full-fidelity score reported before."""
        values = None
        if state == "complete":
            score = self.trial(phase, number).score
            assert score is not None
            values = [score[objective.metric] for objective in self.spec.objectives]
        self._set(phase, number, "outcome", {"state": state, "cause": cause, "message": message[:2000]})
        self.storage.optuna.set_trial_state_values(self._id(phase, number), _OPTUNA_STATE[state], values)
        if phase == "search" and self._sampled is not None:
            self._sampled.tell(number, values, state=_TOLD[_OPTUNA_STATE[state]])
        self._running.pop((phase, number), None)
        return self.trial(phase, number)

    def abandon_unstarted(self) -> int:
        """Settle trials that were asked for or queued by others and not started. Returns how many there were."""
        count = 0
        for phase in PHASES:
            for one in self.studies[phase].get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                if "candidate" not in one.user_attrs:
                    self.storage.optuna.set_trial_state_values(self._id(phase, one.number), TrialState.FAIL)
                    count += 1
        return count

    def _in_memory(self) -> optuna.Study:
        """Return the search as it stands in memory, copied when it is asked for first."""
        if self._sampled is None:
            self._sampled = _in_memory(self._search)
        return self._sampled

    def _create(self, phase: Phase, number: int, trial: FrozenTrial) -> None:
        study_id = self.studies[phase]._study_id
        if self.storage.optuna.create_new_trial(study_id, trial) != self._id(phase, number):
            raise StudyError(f"study {self.name!r}: trial {number} of {phase} was written by another process meanwhile")

    def _parsed(self, phase: Phase, one: FrozenTrial) -> Trial:
        """Read a trial, of a settled one only once."""
        if not one.state.is_finished():
            return _read(phase, one)
        key = (phase, one.number)
        if key not in self._settled:
            self._settled[key] = _read(phase, one)
        return self._settled[key]

    def _set_paused(self, number: int, state: Literal["running", "paused"]) -> Trial:
        trial = self._running["search", number] = replace(self.trial("search", number), state=state, has_paused=True)
        self._set("search", number, _PAUSED, state == "paused")
        return trial

    def _id(self, phase: Phase, number: int) -> int:
        return self.storage.optuna.get_trial_id_from_study_id_trial_number(self.studies[phase]._study_id, number)

    def _set(self, phase: Phase, number: int, key: str, value: Any) -> None:
        self.storage.optuna.set_trial_user_attr(self._id(phase, number), key, value)


def _in_memory(study: optuna.Study) -> optuna.Study:
    """Copy a study into memory."""
    copied = optuna.create_study(directions=study.directions)
    for trial in study.get_trials(deepcopy=False):
        if trial.state is TrialState.FAIL:
            trial = copy.copy(trial)
            trial.state = _TOLD[trial.state]
        copied.add_trial(trial)
    return copied


def _live(study: optuna.Study, number: int) -> optuna.Trial:
    return optuna.Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def _optuna_name(name: str, phase: Phase) -> str:
    return name if phase == "search" else f"{name}/{phase}"


def _about(candidate: Candidate, cost: Cost | None, seed: int, origin: str) -> str:
    data = {"candidate": candidate.to_json(), "sha256": candidate.sha256, "seed": seed, "origin": origin}
    return json.dumps(data | {"cost": cost.to_json() if cost else None})


def _read(phase: Phase, one: FrozenTrial) -> Trial:
    about = json.loads(one.user_attrs["candidate"])
    scores = [Score.from_json(value) for key, value in one.user_attrs.items() if key.startswith("score:")]
    outcome = one.user_attrs.get("outcome") if one.state.is_finished() else None
    unsettled = "paused" if one.user_attrs.get(_PAUSED) else "running"
    settled = outcome or {"state": "failed" if one.state.is_finished() else unsettled, "cause": None, "message": ""}
    test = one.user_attrs.get("test")
    return Trial(
        phase=phase,
        number=one.number,
        candidate=Candidate.from_json(about["candidate"]),
        seed=about["seed"],
        cost=Cost.from_json(about["cost"]) if about["cost"] else None,
        scores=tuple(sorted(scores, key=lambda score: score.step)),
        test=Score.from_json(test) if test else None,
        origin=about["origin"],
        started=one.datetime_start,
        finished=one.datetime_complete,
        has_paused=_PAUSED in one.user_attrs,
        **settled,
    )
