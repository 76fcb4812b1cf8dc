"""Candidates pause at rungs, and of paused and new ones the one goes on that is expected to add most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from evaluators.evaluation import PAUSED_FILE
from evaluators.score import Cost, Score
from evaluators.synthetic import SyntheticRun
from evaluators.tabulated import Table, TabulatedEvaluator, TabulatedRun
from orchestrator import search_work
from orchestrator.expected_volume import Option
from orchestrator.home import Home
from orchestrator.samplers.forest import Forest
from orchestrator.simulation import simulate, simulate_with, tabulated
from orchestrator.spec import Objective, StudySpec
from orchestrator.step_budget import SPENT
from orchestrator.storage import IN_MEMORY, Storage, StudyStore
from orchestrator.study import run_study
from orchestrator.trial import Phase, State, Trial
from orchestrator.work import STOPPED
from search_space.candidate import Candidate
from tests.orchestrator import in_process
from tests.orchestrator.made_up import make_score, make_trial
from tests.orchestrator.tables import RUNGS, space_of, spec_of, table_of

FULL = RUNGS[-1]


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of(80)


def study(**given: Any) -> StudySpec:
    return spec_of(**{**given, "search": {"sampler": "forest", "startup_trials": None, **given.get("search", {})}})


class Told:
    """Remembers what became of each trial, one change after another."""

    def __init__(self) -> None:
        self.changes: list[Trial] = []

    def phase(self, name: Phase, planned: int) -> None:
        pass

    def changed(self, trial: Trial) -> None:
        self.changes.append(trial)

    def states(self, number: int) -> list[str]:
        found = [(one.state, one.steps) for one in self.changes if one.number == number]
        return [state for at, (state, _) in enumerate(found) if at == 0 or found[at] != found[at - 1]]


class Counting(TabulatedEvaluator):
    """Counts the steps that each candidate is trained."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.trained: Counter[str] = Counter()

    def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> TabulatedRun:
        run = super().start(candidate, seed)
        advance = run.advance

        def counted(step: int) -> Score:
            self.trained[candidate.sha256] += step - run.step
            return advance(step)

        run.__dict__["advance"] = counted
        return run


def searched(table: Table, spec: StudySpec, **given: Any) -> tuple[StudyStore, Told]:
    told = Told()
    return simulate(spec, space_of(spec), table, watcher=told, **given), told


TO_TIME = [{"maximize": "accuracy"}, {"minimize": "training_seconds"}]
"""Objectives of which one is measured at the end alone."""


def timed(table: Table) -> Table:
    rows = {key: replace(row, measured={**row.measured, "training_seconds": 1.0}) for key, row in table.rows.items()}
    return Table(table.header, rows)


def trained(store: StudyStore) -> list[Trial]:
    return [one for one in store.trials() if one.state != "infeasible"]


def test_candidates_pause_and_go_on_later(table: Table) -> None:
    store, told = searched(table, study(budgets={"trials": 30}))
    trials = store.trials()
    assert not [one.number for one in trials if not one.is_settled]
    assert "paused" not in told.states(0), "the first is trained to its end at once"
    late = [one for one in trials if one.has_paused and one.state == "complete"]
    early = [one for one in trials if one.state == "partial"]
    assert late
    assert early
    waited = [one for one in late if told.states(one.number).count("paused") == 2]
    assert waited, "each rung is one to pause at"
    assert {one.message for one in early} == {"stopped at its rung"}
    assert _others_ran_between(told, {one.number for one in late})


@pytest.mark.parametrize("at_once", [1, 4])
def test_before_three_have_ended_who_pauses_goes_on_and_nothing_new_begins(table: Table, at_once: int) -> None:
    grace = {"search": {"early_stopping": {"grace": 3}}}
    _, told = searched(table, study(budgets={"trials": 30}, **grace), at_once=at_once)
    begun, ended = list[int](), set[int]()
    for one in told.changes:
        if len(ended) < 3 and one.number not in begun:
            begun.append(one.number)
        ended |= {one.number} if one.state == "complete" else set()
    assert 3 < len(begun) <= 3 + at_once


def _others_ran_between(told: Told, numbers: set[int]) -> bool:
    """Whether anything else was trained while one of some trials paused."""
    order = [one.number for one in told.changes]
    return any(set(order[order.index(one) : len(order) - order[::-1].index(one)]) - {one} for one in numbers)


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_no_step_is_done_twice(table: Table, at_once: int) -> None:
    spec, evaluator = study(budgets={"trials": 40}), Counting(table)
    store = simulate_with(spec, tabulated(spec, space_of(spec), table), evaluator, at_once=at_once)
    assert any(one.has_paused and one.state == "complete" for one in store.trials())
    assert {one.candidate.sha256: one.steps for one in trained(store)} == dict(evaluator.trained)


@pytest.mark.parametrize("at_once", [1, 4, 64])
@pytest.mark.parametrize("steps", [FULL, 3 * FULL + 7, 10 * FULL])
def test_no_more_is_trained_than_the_budget_of_steps(table: Table, at_once: int, steps: int) -> None:
    store, told = searched(table, study(budgets={"trials": 500, "steps": steps}), at_once=at_once)
    done = {one.number: one.steps for one in told.changes}
    assert sum(done.values()) <= steps
    assert [one for one in store.trials() if one.state == "complete"], "one is trained to its end in any case"
    assert not [one for one in store.trials() if not one.is_settled]
    spent = [one for one in trained(store) if one.state == "partial"]
    assert {one.message for one in spent} <= {STOPPED, f"{STOPPED}: {SPENT}"}


@pytest.mark.parametrize("at_once", [4, 16])
def test_who_cannot_pause_for_what_rungs_do_not_measure_is_paid_for_to_the_end(table: Table, at_once: int) -> None:
    spec = study(objectives=TO_TIME, budgets={"trials": 500, "steps": 5 * FULL})
    store, _ = searched(timed(table), spec, at_once=at_once)
    assert [(one.state, one.steps) for one in trained(store)] == 5 * [("complete", FULL)]


def test_the_first_is_paid_for_to_the_end_after_a_kill_too(table: Table) -> None:
    spec = study(budgets={"trials": 500, "steps": 3 * FULL})
    store = killed(table, spec, range(1), RUNGS[0], at_once=16)
    searched(table, spec, store=store, at_once=16)
    assert store.trials()[0].state == "complete"


def test_at_the_end_of_the_trials_who_is_within_reach_goes_on(table: Table) -> None:
    """What `reach` keeps is trained to its end, and what it would stop is not: nobody may go on for ever."""
    store, _ = searched(table, study(budgets={"trials": 25}))
    ended = [one for one in store.trials() if one.state == "complete"]
    best = max(one.scores[-1]["accuracy"] for one in ended)
    stopped = [one for one in trained(store) if one.state == "partial"]
    assert 2 < len(ended) < 25
    assert stopped
    assert all(one.scores[-1]["accuracy"] < best for one in stopped)


def test_the_budget_of_time_settles_what_pauses(table: Table) -> None:
    store, _ = searched(table, study(budgets={"trials": 500, "time": "60s"}), at_once=2)
    paused = [one for one in trained(store) if one.state == "partial" and one.cause is None]
    assert {one.message for one in paused} == {"stopped at its rung: the budget of time is spent"}
    assert not [one for one in store.trials() if not one.is_settled]


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_killed_search_goes_on_with_what_paused(table: Table, tmp_path: Path, at_once: int) -> None:
    spec, places = study(budgets={"trials": 30}), f"sqlite:///{tmp_path}/studies.db"
    whole, _ = searched(table, spec, at_once=at_once)
    kept = Storage(places).create(spec)
    for store in (kept, StudyStore(Storage(places), spec.name)):
        turns = count()
        simulate(spec, space_of(spec), table, store=store, at_once=at_once, until=partial(_is_over, turns, 12))
    again = StudyStore(Storage(places), spec.name)
    before = {one.number: one for one in again.trials()}
    assert "paused" in {one.state for one in before.values()}
    store, told = searched(table, spec, store=again, at_once=at_once)
    assert not [one for one in store.trials() if not one.is_settled]
    assert max(Counter(one.candidate.sha256 for one in store.trials()).values()) == 1
    resumed = {one.number for one in told.changes if one.state == "running" and before.get(one.number, one).scores}
    assert resumed, "who paused before the kill goes on after it"
    if at_once == 1:
        found, wanted = ([(one.candidate, one.steps) for one in some.trials()] for some in (store, whole))
        assert found == wanted


def _is_over(turns: Iterator[int], most: int) -> bool:
    return next(turns) > most


class Killed(Exception):
    """Ends a simulation in the middle of a turn."""


class KilledAt(Told):
    """Ends the simulation as one of some trials is told to have come so far."""

    def __init__(self, numbers: range, steps: int) -> None:
        super().__init__()
        self.numbers, self.steps = numbers, steps

    def changed(self, trial: Trial) -> None:
        super().changed(trial)
        if trial.number in self.numbers and trial.steps == self.steps and trial.state == "running":
            raise Killed


def killed(table: Table, spec: StudySpec, numbers: range, steps: int, at_once: int = 1) -> StudyStore:
    """Search until a driver is killed between a score and what becomes of its trial; return the study, read again."""
    store = Storage(IN_MEMORY).create(spec)
    with pytest.raises(Killed):
        simulate(spec, space_of(spec), table, store=store, at_once=at_once, watcher=KilledAt(numbers, steps))
    return StudyStore(store.storage, spec.name)


def test_who_was_killed_at_its_end_is_trained_again_once(table: Table) -> None:
    spec = study(budgets={"trials": 15, "steps": 1000})
    store, turns = killed(table, spec, range(4, 15), FULL), count()
    cut_off = next(one.number for one in store.trials() if one.state == "running")
    told = Told()
    simulate(spec, space_of(spec), table, store=store, watcher=told, until=partial(_is_over, turns, 100))
    assert told.states(cut_off) == ["running", "complete"]
    assert not [one for one in store.trials() if not one.is_settled]


def test_the_steps_of_who_was_killed_at_its_end_do_not_count_beside_its_second_try(table: Table) -> None:
    spec = study(budgets={"trials": 15, "steps": FULL})
    store = killed(table, spec, range(1), FULL)
    searched(table, spec, store=store)
    assert [one.state for one in store.trials()] == ["complete"]


def test_what_a_rung_does_not_measure_is_waited_for(table: Table) -> None:
    store, told = searched(timed(table), study(objectives=TO_TIME, budgets={"trials": 8}))
    assert not [one for one in told.changes if one.state == "paused"]
    assert {one.state for one in trained(store)} == {"complete"}


def test_where_there_is_no_room_for_what_pauses_it_is_decided_as_by_reach(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_work, "_MOST_KEPT_BYTES", 0)
    store, told = searched(table, study(budgets={"trials": 25}))
    assert not [one for one in told.changes if one.state == "paused"]
    assert {one.state for one in trained(store)} == {"complete", "partial"}


@pytest.mark.parametrize("at_once", [1, 8])
def test_no_more_pauses_than_there_is_room_for(table: Table, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(search_work, "_MOST_KEPT_BYTES", 2)
    monkeypatch.setattr(search_work, "_kept_bytes", lambda _trial: 1)
    _, told = searched(table, study(budgets={"trials": 25}, search={"seed": 1}), at_once=at_once)
    now, pauses = dict[int, str](), list[tuple[int, int]]()
    for one in told.changes:
        now[one.number] = one.state
        if one.state == "paused":
            pauses.append((one.steps, Counter(now.values())["paused"]))
    assert {count for _, count in pauses} == {1, 2}
    assert (RUNGS[1], 2) in pauses or at_once > 1, "who goes on has its own room again"


def test_a_candidate_that_fails_when_it_goes_on_is_a_failure(table: Table) -> None:
    class Failing(TabulatedEvaluator):
        def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> TabulatedRun:
            run = super().start(candidate, seed)
            advance = run.advance

            def fail_late(step: int) -> Score:
                if step > RUNGS[0] and candidate.parts[0].method != "lora":
                    raise MemoryError("told to run out of memory")
                return advance(step)

            run.__dict__["advance"] = fail_late
            return run

    spec = study(budgets={"trials": 30})
    trials = simulate_with(spec, tabulated(spec, space_of(spec), table), Failing(table)).trials()
    failed = [one for one in trials if one.state == "failed"]
    assert {(one.cause, one.steps, one.has_paused) for one in failed} == {("out_of_memory", RUNGS[0], True)}
    assert not [one for one in trials if not one.is_settled]


def test_the_state_is_in_the_storage_and_goes_when_it_goes_on(tmp_path: Path) -> None:
    url, spec = f"sqlite:///{tmp_path}/studies.db", study()
    store, table = Storage(url).create(spec), table_of(5)
    row = table.main()[0]

    def read() -> Trial:
        return StudyStore(Storage(url), spec.name).trials()[0]

    store.ask(space_of(spec), in_process_sampler(), row.candidate)
    store.start(0, row.candidate, row.cost, 0, {})
    store.report("search", 0, make_score({"accuracy": 0.5}, RUNGS[0]))
    assert store.pause(0) == store.trial("search", 0)
    assert (read().state, read().has_paused, read().steps) == ("paused", True, RUNGS[0])
    assert store.resume(0).state == read().state == "running"
    assert read().has_paused
    store.pause(0)
    store.finish("search", 0, "partial", message="stopped at its rung")
    assert (read().state, read().has_paused) == ("partial", True)


def in_process_sampler() -> Any:
    import optuna

    return optuna.samplers.RandomSampler(seed=0)


class TestForest:
    objectives = (
        Objective(metric="accuracy", direction="maximize"),
        Objective(metric="trainable_params", direction="minimize"),
    )

    def trials(self) -> list[Trial]:
        """Six that were trained to the end, and two of one size that pause: their losses differ."""
        ended = [self._trial(at, 1000 * (at + 1), (0.3, 2.0 - 0.1 * at), (0.5 + 0.05 * at, 1.0)) for at in range(6)]
        paused = [self._trial(6 + at, 500, (0.3, loss), state="paused") for at, loss in enumerate((2.2, 1.4))]
        return [*ended, *paused]

    def _trial(
        self, number: int, params: int, *accuracy_and_loss: tuple[float, float], state: State = "complete"
    ) -> Trial:
        steps = (RUNGS[0], FULL)
        scores = [
            make_score({"accuracy": accuracy, "nll": loss, "trainable_params": float(params)}, step)
            for (accuracy, loss), step in zip(accuracy_and_loss, steps, strict=False)
        ]
        return replace(make_trial(number), cost=Cost(params, 1), scores=tuple(scores), state=state)

    def ranked(self, trials: list[Trial], options: list[Option], paused: list[Trial]) -> list[int]:
        worst = {"accuracy": 0.1, "trainable_params": 1e6}
        forest = Forest(self.objectives, worst, 6, ["trainable_params"])
        return forest.ranked(options, trials, 0, paused)

    def test_of_two_that_pause_the_one_with_the_lower_loss_comes_first(self) -> None:
        trials = self.trials()
        assert self.ranked(trials, [], trials[-2:]) == [1, 0]

    def test_what_runs_counts_by_what_trees_say_where_its_rung_does_not_measure_an_objective(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else several at once would all be proposed for the same gap of the front."""
        ended, running = self.trials()[:6], self._trial(6, 500, (0.3, 2.0), state="running")
        timed = [
            replace(one, scores=(one.scores[0], replace(last, values={**last.values, "training_seconds": 5.0 + at})))
            for at, one in enumerate(ended)
            for last in one.scores[1:]
        ]
        seen: list[dict[str, Any]] = []
        front = Forest._front

        def noted(forest: Forest, box: Any, reached: Any, running: Any, expected: Any, keeps: Any) -> Any:
            seen.append(expected)
            return front(forest, box, reached, running, expected, keeps)

        monkeypatch.setattr(Forest, "_front", noted)
        forest = Forest(
            (self.objectives[0], Objective(metric="training_seconds", direction="minimize")),
            {"accuracy": 0.1, "training_seconds": 100.0}, 6, ["trainable_params"],
        )  # fmt: skip
        forest.ranked([Option.of(make_trial(20).candidate, 6, {"trainable_params": 700.0})], [*timed, running], 0)
        assert 5.0 <= seen[0]["training_seconds"][0] <= 10.0

    def test_options_come_before_what_pauses_in_positions(self) -> None:
        trials = self.trials()
        large = Option.of(make_trial(20).candidate, 6, {"trainable_params": 9e5})
        assert self.ranked(trials, [large], trials[-2:])[0] == 2
        small = Option.of(make_trial(20).candidate, 6, {"trainable_params": 2.0})
        assert self.ranked(trials, [small], trials[-1:])[0] == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    in_process.forget_settings(monkeypatch)
    in_process.in_this_process(monkeypatch)
    return Home(tmp_path)


def test_in_a_study_what_pauses_is_in_its_folder_until_it_is_settled(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on from the file, in another run than the one that left it."""
    spec = in_process.spec_of(search={"sampler": "forest", "startup_trials": None}, budgets={"trials": 15})
    done: dict[int, list[tuple[int, int]]] = {}
    advance: Callable[[SyntheticRun, int], Score] = SyntheticRun.advance

    def noted(run: SyntheticRun, step: int) -> Score:
        done.setdefault(id(run.candidate), []).append((run.step, step))
        return advance(run, step)

    monkeypatch.setattr(SyntheticRun, "advance", noted)
    watched, kept = in_process.Watched(), set[int]()

    def look(trial: Trial) -> None:
        file = home.study(spec.name) / "search" / str(trial.number) / PAUSED_FILE
        if trial.phase == "search" and trial.state == "paused":
            assert file.exists()
            kept.add(trial.number)
        if trial.is_settled:
            assert not file.exists()

    watched.at_change = look
    store = in_process.store_of(home, spec)
    run_study(store, home, watched)
    assert kept
    legs = [leg for some in done.values() for leg in some]
    assert [leg for leg in legs if leg[0] == RUNGS[0]], "some went on from the first rung"
    ended = {one.state for one in store.trials() if one.number in kept}
    assert ended == {"complete", "partial"}
    assert not list(home.study(spec.name).glob(f"search/*/{PAUSED_FILE}"))


def test_what_a_killed_driver_left_of_settled_trials_is_deleted(home: Home) -> None:
    spec = in_process.spec_of(search={"sampler": "forest", "startup_trials": None}, budgets={"trials": 3})
    run_study(in_process.store_of(home, spec), home, in_process.Watched())
    left = home.study(spec.name) / "search" / "1" / PAUSED_FILE
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    more = in_process.spec_of(search={"sampler": "forest", "startup_trials": None}, budgets={"trials": 4})
    run_study(in_process.store_of(home, more), home, in_process.Watched())
    assert not left.exists()


def test_the_time_of_a_trial_is_that_of_all_its_turns(table: Table) -> None:
    """Half of what a whole training takes: nobody gets to an end by pausing on the way."""
    half = min(FULL * table.step_seconds(row) for row in table.main()) / 2
    store, _ = searched(table, study(budgets={"trials": 12, "trial_time": f"{half:.3f}s"}))
    assert "complete" not in {one.state for one in store.trials()}
    assert "timeout" in {one.cause for one in store.trials()}
