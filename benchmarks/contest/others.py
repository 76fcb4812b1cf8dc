"""What users would write themselves: Optuna's samplers, Ray Tune with OptunaSearch and ASHA, Syne Tune's MOASHA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.contest.arena import DIRECTIONS, Arena, Finished
from evaluators.tabulated import Row
from orchestrator.drawing import Sampled, enter
from search_space.candidate import Candidate
from search_space.knobs import RandomChooser

optuna.logging.set_verbosity(optuna.logging.WARNING)


def with_optuna(sampler: Callable[[int], optuna.samplers.BaseSampler]) -> Any:
    """Return a search that trains everything to the end, with one of Optuna's samplers as users set it up."""

    def run(arena: Arena, steps: int, seed: int) -> list[Finished]:
        study = optuna.create_study(directions=list(DIRECTIONS), sampler=sampler(seed))
        taken: set[str] = set()
        finished: list[Finished] = []
        for at in range(arena.full, steps + 1, arena.full):
            trial = study.ask()
            candidate = _near(arena, arena.space.draw(Sampled(study, trial)), taken)
            if candidate is None:
                break
            enter(study, trial, arena.space, candidate)
            row = arena.row(candidate)
            if row.cause:
                study.tell(trial, state=TrialState.FAIL)
                continue
            study.tell(trial, [row.validation[-1][0], row.cost.trainable_params])
            finished.append(Finished(at, row))
        return finished

    return run


def ray_tune(arena: Arena, steps: int, seed: int) -> list[Finished]:
    """Ray Tune's OptunaSearch over both objectives, with ASHA on the accuracy: its own classes on the table."""
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch

    taken: set[str] = set()
    drawn: dict[int, Candidate] = {}

    def space(trial: optuna.Trial) -> None:
        candidate = _near(arena, arena.space.draw(Sampled(trial.study, trial)), taken)
        if candidate is not None:
            enter(trial.study, trial, arena.space, candidate)
            drawn[trial.number] = candidate

    metrics = ["accuracy", "trainable_params"]
    search = OptunaSearch(space, metric=metrics, mode=["max", "min"], seed=seed)
    rungs = arena.table.header.rungs
    asha = AsyncHyperBandScheduler(
        time_attr="step", metric="accuracy", mode="max", max_t=rungs[-1], grace_period=rungs[0], reduction_factor=3
    )
    spent, finished = 0, list[Finished]()
    for number in range(len(arena.rows)):
        name = f"trial{number}"
        search.suggest(name)
        if number not in drawn or spent >= steps:
            break
        row, trial = arena.row(drawn[number]), SimpleNamespace(trial_id=name)
        if row.cause:
            spent += arena.full
            search.on_trial_complete(name, error=True)
            continue
        asha.on_trial_add(None, trial)
        result = {}
        for step, scored in zip(rungs, row.validation, strict=True):
            result = {"step": step, "accuracy": scored[0], "trainable_params": row.cost.trainable_params}
            if asha.on_trial_result(None, trial, {**result, "training_iteration": step}) != "CONTINUE":
                break
        spent += result["step"]
        search.on_trial_complete(name, result)
        if result["step"] == arena.full and spent <= steps:
            finished.append(Finished(spent, row))
    return finished


def moasha(arena: Arena, steps: int, seed: int) -> list[Finished]:
    """Syne Tune's MOASHA over both objectives: random candidates, stopped at the table's rungs."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import uniform
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    np.random.seed(seed)  # it draws its brackets from numpy's global state
    rungs = arena.table.header.rungs
    scheduler = MOASHA(
        {"drawn": uniform(0, 1)}, ["error", "trainable_params"], time_attr="step", max_t=rungs[-1],
        grace_period=rungs[0], reduction_factor=3, random_seed=seed,
    )  # fmt: skip
    spent, finished = 0, list[Finished]()
    for number, row in enumerate(_at_random(arena, seed)):
        if spent >= steps:
            break
        if row.cause:
            spent += arena.full
            continue
        trial = Trial(number, {}, None)  # type: ignore[arg-type]  (its time of creation is not looked at)
        scheduler.on_trial_add(trial)
        step = 0
        for step, scored in zip(rungs, row.validation, strict=True):
            told = {"step": step, "error": 1 - scored[0], "trainable_params": row.cost.trainable_params}
            if scheduler.on_trial_result(trial, told) == "STOP":
                break
        spent += step
        if step == arena.full and spent <= steps:
            finished.append(Finished(spent, row))
    return finished


def _at_random(arena: Arena, seed: int) -> Iterator[Row]:
    chooser, taken = RandomChooser(seed), set[str]()
    while (candidate := _near(arena, arena.space.draw(chooser), taken)) is not None:
        yield arena.row(candidate)


def _near(arena: Arena, drawn: Candidate, taken: set[str]) -> Candidate | None:
    candidate = arena.points.nearest(drawn, taken)
    if candidate is not None:
        taken.add(candidate.sha256)
    return candidate
