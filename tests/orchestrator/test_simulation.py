"""Studies on a simulated clock: what must hold for every sampler and storage, through faults, kills and budgets."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from evaluators.synthetic import synthetic_params
from evaluators.tabulated import Fault, Table, TabulatedEvaluator
from orchestrator.dominance import non_dominated
from orchestrator.front import front_of
from orchestrator.simulation import TimedRun, simulate, simulate_with, tabulated
from orchestrator.storage import IN_MEMORY, Storage, StudyStore
from orchestrator.trial import Trial
from search_space.candidate import Candidate
from search_space.errors import DataError
from tests.orchestrator.tables import RUNGS, space_of, spec_of, table_of

SAMPLERS = ("tpe", "random", "nsga2", "gp", "forest")
FAULTS: tuple[Fault, ...] = ("raise", "nan", "oom", "missing", "hang", "exit")


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of()


def searched(table: Table, store: StudyStore | None = None, **given: object) -> list[Trial]:
    options = {name: given.pop(name) for name in ("faults", "at_once", "until") if name in given}
    spec = spec_of(**given)
    return simulate(spec, space_of(spec), table, store=store, **options).trials()  # type: ignore[arg-type]


def candidates(trials: list[Trial]) -> list[Candidate]:
    return [one.candidate for one in trials]


@pytest.fixture(params=[IN_MEMORY, "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each storage that a study may be kept in."""
    if request.param == "postgres":
        return Storage(request.getfixturevalue("postgres"))
    return Storage(IN_MEMORY if request.param == IN_MEMORY else f"sqlite:///{tmp_path}/studies.db")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study's name that no other test has, as they share a server."""
    return f"study-{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}"


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySamplerOnEveryStorage:
    def test_nothing_runs_twice_nothing_is_left_running_nothing_partial_is_complete(
        self, table: Table, sampler: str, storage: Storage, name: str
    ) -> None:
        store = storage.create(spec_of(name=name, search={"sampler": sampler}))
        faults = {row.candidate.sha256: FAULTS[at % len(FAULTS)] for at, row in enumerate(table.main()[::5])}
        trials = searched(table, store, search={"sampler": sampler}, faults=faults, at_once=3)
        assert not [one for one in trials if one.state == "running"]
        assert max(Counter(one.candidate.sha256 for one in trials).values()) == 1
        assert all(one.steps == RUNGS[-1] for one in trials if one.state == "complete")
        assert all(one.steps < RUNGS[-1] for one in trials if one.state == "partial")
        told = store.studies["search"].get_trials(deepcopy=False)
        assert all((one.values is not None) == (one.state.name == "COMPLETE") for one in told)

    def test_over_budget_is_never_trained(self, table: Table, sampler: str, storage: Storage, name: str) -> None:
        budgets = {"trials": 8, "trainable_params": 3000}
        store = storage.create(spec_of(name=name, search={"sampler": sampler}, budgets=budgets))
        trials = searched(table, store, search={"sampler": sampler}, budgets=budgets)
        assert all((one.state == "infeasible") == (one.cost.trainable_params > 3000) for one in trials if one.cost)
        assert all(not one.scores for one in trials if one.state == "infeasible")

    def test_a_killed_study_goes_on_with_the_candidates_that_it_would_have_had(
        self, table: Table, sampler: str, storage: Storage, name: str
    ) -> None:
        whole = searched(table, search={"sampler": sampler})
        store = storage.create(spec_of(name=name, search={"sampler": sampler}))
        ticks = count()
        searched(table, store, search={"sampler": sampler}, until=lambda: next(ticks) > 17)
        again = StudyStore(store.storage, store.name)
        resumed = searched(table, again, search={"sampler": sampler})
        assert candidates(resumed) == candidates(whole)
        assert [one.state for one in resumed] == [one.state for one in whole]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("raise", "raised"),
        ("nan", "diverged"),
        ("oom", "out_of_memory"),
        ("missing", "unmeasured"),
        ("hang", "timeout"),
        ("exit", "crashed"),
    ],
)
def test_each_fault_has_its_cause_and_the_study_goes_on(table: Table, fault: Fault, cause: str) -> None:
    spec = spec_of(search={"early_stopping": {"rungs": 1}}, budgets={"trials": 6, "trial_time": 1000})
    first = simulate(spec, space_of(spec), table).trials()[0].candidate.sha256
    trials = simulate(spec, space_of(spec), table, faults={first: fault}).trials()
    assert (trials[0].state, trials[0].cause) == ("failed", cause)
    assert [one.state for one in trials[1:]] == ["complete"] * 5


def test_the_table_answers_with_what_was_trained(table: Table) -> None:
    for trial in searched(table, budgets={"trials": 10}):
        row = table.rows[trial.candidate.sha256, 0]
        assert [score["accuracy"] for score in trial.scores] == [one[0] for one in row.validation][: len(trial.scores)]
        assert trial.cost == row.cost


def test_a_table_can_be_used_up(table: Table) -> None:
    trials = searched(table, budgets={"trials": 500}, search={"sampler": "random"})
    assert {one.candidate.sha256 for one in trials} == {row.candidate.sha256 for row in table.main()}


def test_the_clock_goes_by_flops_and_not_by_what_a_loaded_machine_measured(table: Table) -> None:
    noise = count(1)
    rows = {
        key: replace(row, measured={**row.measured, "train_step_ms": 100.0 + next(noise) % 3})
        for key, row in table.rows.items()
    }
    one, other = (searched(Table(table.header, two), at_once=4) for two in (rows, table.rows))
    assert candidates(one) == candidates(other)
    assert [(trial.state, trial.steps) for trial in one] == [(trial.state, trial.steps) for trial in other]
    spec = spec_of()
    untold = {key: replace(row, cost=replace(row.cost, training_flops=None)) for key, row in rows.items()}
    with pytest.raises(DataError, match="60 rows do not tell their training_flops"):
        simulate(spec, space_of(spec), Table(table.header, untold))


def test_the_budget_of_time_is_that_of_the_clock(table: Table) -> None:
    """About 0.1 s a step: 60 s are 600 steps, whatever the machine does."""
    spec = spec_of(budgets={"trials": 500, "time": "60s"}, search={"early_stopping": {"rungs": 1}})
    trials = simulate(spec, space_of(spec), table).trials()
    steps = sum(one.steps for one in trials)
    assert 360 <= steps <= 600
    assert trials[-1].cause == "interrupted"
    assert trials[-1].state == "partial"


class _Counted(TabulatedEvaluator):
    """Counts the steps that it was asked to train, those of trials that fail or are dropped too."""

    def __init__(self, table: Table, faults: Mapping[str, Fault]) -> None:
        super().__init__(table, faults)
        self.steps = 0

    def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> TimedRun:
        run, done = super().start(candidate, seed, accumulation), 0
        seconds = run.seconds

        def counted(step: int) -> float:
            nonlocal done
            self.steps, done = self.steps + step - done, step
            return seconds(step)

        run.seconds = counted  # type: ignore[method-assign]
        return run


@pytest.mark.parametrize("rungs", [1, 3])
@pytest.mark.parametrize("at_once", [1, 4, 16, 64])
@pytest.mark.parametrize("steps", [90, 130, 400])
def test_no_more_is_trained_than_the_budget_of_steps(table: Table, steps: int, at_once: int, rungs: int) -> None:
    spec = spec_of(budgets={"trials": 500, "steps": steps}, search={"early_stopping": {"rungs": rungs, "grace": 2}})
    faults: dict[str, Fault] = {
        row.candidate.sha256: ("nan", "oom")[at % 2] for at, row in enumerate(table.main()[::6])
    }
    evaluator = _Counted(table, faults)
    prepared = tabulated(spec, space_of(spec), table)
    trials = simulate_with(spec, prepared, evaluator, at_once=at_once).trials()
    assert steps - RUNGS[0 if rungs > 1 else -1] < evaluator.steps <= steps
    assert not [one for one in trials if one.state == "running" or (one.state == "partial" and not one.steps)]
    assert any(one.state in ("complete", "failed") for one in trials)
    dropped = [one for one in trials if one.message == "the budget of steps is spent"]
    assert all((one.state, one.cause) == ("partial", None) for one in dropped)


def test_more_steps_go_on_where_a_spent_budget_ended(table: Table) -> None:
    storage, counted = Storage(IN_MEMORY), 0
    for steps in (400, 400, 700):
        budgets = {"trials": 500, "steps": steps}
        trials = searched(table, storage.create(spec_of(budgets=budgets)), budgets=budgets, at_once=4)
        assert counted <= sum(one.steps for one in trials) <= steps
        assert steps != 400 or counted in (0, sum(one.steps for one in trials))
        counted = sum(one.steps for one in trials)
    assert counted > 600


def test_what_a_killed_driver_left_is_not_trained_beyond_the_budget_of_steps(table: Table) -> None:
    budgets, ticks = {"trials": 500, "steps": 400}, count()
    store = Storage(IN_MEMORY).create(spec_of(budgets=budgets))
    searched(table, store, budgets=budgets, at_once=4, until=lambda: next(ticks) > 8)
    left = [one.number for one in store.trials() if one.state == "running"]
    assert left
    lowered = {"trials": 500, "steps": 1 + sum(one.steps for one in store.trials() if one.state != "running")}
    trials = searched(table, store.storage.create(spec_of(budgets=lowered)), budgets=lowered)
    assert {trials[number].cause for number in left} == {"interrupted"}
    assert {trials[number].message for number in left} == {"the budget of steps is spent"}


@pytest.mark.parametrize("sampler", ["random", pytest.param("forest", marks=pytest.mark.slow)])
def test_sixty_four_at_once(sampler: str) -> None:
    table, spec = table_of(150), spec_of(budgets={"trials": 120}, search={"sampler": sampler})
    store = Storage(IN_MEMORY).create(spec)
    most: list[int] = []

    def look() -> bool:
        most.append(sum(one.state == "running" for one in store.trials()))
        return False

    trials = simulate(spec, space_of(spec), table, at_once=64, store=store, until=look).trials()
    assert max(most) == 64
    assert len({one.candidate.sha256 for one in trials}) == len(trials) == 120
    assert {one.state for one in trials} <= {"complete", "partial"}


def test_trials_at_once_take_less_time_on_the_clock(table: Table) -> None:
    """Four at once pass a rung in an order that follows from how long each takes."""
    alone = searched(table, budgets={"trials": 500, "time": "60s"})
    together = searched(table, budgets={"trials": 500, "time": "60s"}, at_once=4)
    assert sum(one.steps for one in together) > 3 * sum(one.steps for one in alone)


def test_other_rungs_than_the_tables_are_refused(table: Table) -> None:
    with pytest.raises(ValueError, match=r"the table has rungs \(10, 30, 90\)"):
        searched(table, search={"early_stopping": {"eta": 2}})


def test_early_stopping_keeps_a_front_over_what_training_does_not_change(table: Table) -> None:
    """Latency was told at the end only, so accuracy alone decided at rungs: the fast stopped."""
    rows = {
        key: replace(row, measured={**row.measured, "latency_ms": math.log10(synthetic_params(row.candidate))})
        for key, row in table.rows.items()
    }
    objectives = [{"maximize": "accuracy"}, {"minimize": "latency_ms"}]

    def members(seed: int) -> tuple[int, int]:
        given = {"search": {"sampler": "random", "seed": seed}, "budgets": {"trials": 60}, "objectives": objectives}
        trials = searched(Table(table.header, rows), **given)
        ended = [one for one in trials if one.state == "complete"]
        values = [[row.validation[-1][0], row.measured["latency_ms"]] for row in rows.values()]
        front = {
            row.candidate.sha256
            for row, on in zip(rows.values(), non_dominated(values, ["maximize", "minimize"]), strict=True)
            if on
        }
        assert any(one.state == "partial" for one in trials)
        return len(front & {one.candidate.sha256 for one in ended}), len(front)

    found = [members(seed) for seed in range(3)]
    assert sum(kept for kept, _ in found) >= 0.8 * sum(there for _, there in found)


def test_a_rung_knows_what_is_predicted_where_it_is_measured_at_the_end_only(table: Table) -> None:
    rows = {
        key: replace(
            row,
            cost=replace(row.cost, peak_memory_bytes=2 * row.cost.trainable_params),
            measured={**row.measured, "peak_memory_bytes": 2.1 * row.cost.trainable_params},
        )
        for key, row in table.rows.items()
    }
    objectives = [{"maximize": "accuracy"}, {"minimize": "peak_memory_bytes"}]
    trials = searched(Table(table.header, rows), objectives=objectives, budgets={"trials": 40})
    assert any(one.state == "partial" for one in trials)
    assert all("peak_memory_bytes" not in one.scores[0].values for one in trials)


@pytest.mark.parametrize("sampler", ["random", "forest"])
@pytest.mark.parametrize("rule", ["reach", "halving"])
def test_through_faults_limits_and_drivers_that_are_killed_again_and_again(
    table: Table, sampler: str, rule: str
) -> None:
    """Every driver is killed after some events, with four trials at once, until one comes to the end."""
    latency = {row.candidate.sha256: float(at % 10) for at, row in enumerate(table.main())}
    rows = {
        key: replace(row, measured={**row.measured, "latency_ms": latency[row.candidate.sha256]})
        for key, row in table.rows.items()
    }
    faults = {row.candidate.sha256: FAULTS[at % len(FAULTS)] for at, row in enumerate(table.main()[::4])}
    search = {"sampler": sampler, "early_stopping": {"rule": rule, "grace": 2}}
    budgets = {"trials": 30, "latency": "6ms", "trainable_params": 40_000, "trial_time": 1000}
    spec = spec_of(search=search, budgets=budgets)
    store = Storage(IN_MEMORY).create(spec)
    trained: Counter[str] = Counter()
    for lifetime in (5, 9, 14, 10_000):
        ticks, settled = count(), {one.key for one in store.trials() if one.state != "running"}
        simulate(
            spec, space_of(spec), Table(table.header, rows), faults=faults, at_once=4,
            store=StudyStore(store.storage, store.name), until=lambda life=lifetime, tick=ticks: next(tick) > life,
        )  # fmt: skip
        trained.update(one.key for one in store.trials() if one.key not in settled and one.state != "running")
    trials = store.trials()
    assert not [one for one in trials if one.state == "running"]
    assert max(Counter(one.candidate.sha256 for one in trials).values()) == 1
    assert set(trained.values()) == {1}
    assert sum(one.state != "infeasible" for one in trials) == 30
    assert len({one.cause for one in trials if one.state == "failed"}) > 3
    complete = [one for one in trials if one.state == "complete"]
    assert complete
    assert all(one.steps == RUNGS[-1] and one.scores[-1]["latency_ms"] <= 6 for one in complete)
    assert all(one.cost is not None and one.cost.trainable_params <= 40_000 for one in trials if one.scores)
    over = [one for one in trials if one.scores and one.scores[0]["latency_ms"] > 6]
    assert over
    assert {one.steps for one in over} == {RUNGS[0]}
    told = store.studies["search"].get_trials(deepcopy=False)
    assert {one.number for one in told if one.values is not None} == {one.number for one in complete}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_three_objectives_make_a_front(table: Table, sampler: str) -> None:
    rows = {
        key: replace(row, measured={**row.measured, "latency_ms": 1.0 + at % 7})
        for at, (key, row) in enumerate(table.rows.items())
    }
    objectives = [{"maximize": "accuracy"}, {"minimize": "trainable_params"}, {"minimize": "latency_ms"}]
    given = {"search": {"sampler": sampler}, "objectives": objectives, "budgets": {"trials": 15}}
    trials = searched(Table(table.header, rows), **given)
    reference = {"accuracy": 1 / 6, "trainable_params": 1e6, "latency_ms": 100.0}
    front = front_of(spec_of(**given), trials, {}, reference=reference)
    assert front.hypervolume
    assert {one.number for one in front.members} <= {one.number for one in trials if one.state == "complete"}
    assert sum(one.origin == "forest" for one in trials) > 5 or sampler != "forest"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_warns_of_what_nobody_can_change(table: Table, sampler: str) -> None:
    """Optuna's loggers have handlers of their own, on a stream that is taken before a test captures it."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("optuna").addHandler(handler)
    try:
        searched(table, search={"sampler": sampler}, budgets={"trials": 12})
    finally:
        logging.getLogger("optuna").removeHandler(handler)
    assert said == []


def test_after_its_first_population_nsga2_does_not_draw_at_random(table: Table) -> None:
    """So it was: only the composition is shared by all trials, and a single parameter is always mutated."""
    nsga2, uniform = (
        candidates(searched(table, search={"sampler": one, "early_stopping": {"rungs": 1}}, budgets={"trials": 40}))
        for one in ("nsga2", "random")
    )
    assert nsga2[:12] == uniform[:12]
    assert sum(one == other for one, other in zip(nsga2[13:], uniform[13:], strict=True)) < 10
