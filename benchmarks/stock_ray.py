"""Ray Tune with its own OptunaSearch, scheduler and MLflow callback, as its documentation puts them together.

Same space, sampler and concurrency as the study beside it, and the study's own evaluator, which answers at once.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from evaluators.evaluation import EvaluatorSpec, build_evaluator
from search_space.candidate import Candidate
from search_space.space import Space

STEPS = (111, 333, 1000)
_OURS = ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_GLOBAL_CHECKPOINT_S", "TUNE_MAX_PENDING_TRIALS_PG")


@dataclass(frozen=True)
class Stock:
    """One way to use Ray Tune.

    Attributes:
        name: For people.
        actors: Whether a class trainable with `reuse_actors=True` is used, instead of a function.
        mlflow: Whether `MLflowLoggerCallback` writes to SQLite.
        asha: Whether ASHA stops trials early.
    """

    name: str
    actors: bool
    mlflow: bool
    asha: bool = True


class Answers:
    """The study's own evaluator, which answers at once, for one trial of Ray Tune."""

    def __init__(self, config: dict[str, Any]) -> None:
        evaluator = build_evaluator(EvaluatorSpec.from_json(json.loads(config["evaluator"])))
        self._run = evaluator.start(Candidate.from_json(json.loads(config["candidate"])), seed=0)

    def at(self, rung: int) -> dict[str, float]:
        """Return what the trial reports at a rung, from 1."""
        return dict(self._run.advance(STEPS[rung - 1]).values)


def train(config: dict[str, Any]) -> None:
    """Report each rung: a function trainable."""
    answers = Answers(config)
    for rung in range(1, len(STEPS) + 1):
        tune.report(answers.at(rung))


class Actor(tune.Trainable):
    """Reports each rung: a class trainable whose actor is used again."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.answers = Answers(new_config)
        self.rung = 0
        return True

    def step(self) -> dict[str, Any]:
        self.rung += 1
        return self.answers.at(self.rung) | {"done": self.rung == len(STEPS)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


class _Ends(tune.Callback):
    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended()


def run(
    stock: Stock, space: Space, evaluator: EvaluatorSpec, trials: int, at_once: int, ended: Callable[[], None]
) -> None:
    """Run trials on the Ray that this process is connected to; `ended` is called as each of them ends."""
    with tempfile.TemporaryDirectory(prefix="paretune-stock-") as folder, _default_environment():
        callbacks: list[Any] = [_Ends(ended)]
        if stock.mlflow:
            callbacks.append(MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="stock"))
        tune.Tuner(
            tune.with_resources(Actor if stock.actors else train, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=_search(space, evaluator),
                scheduler=_asha() if stock.asha else None,
                num_samples=trials,
                max_concurrent_trials=at_once,
                reuse_actors=stock.actors,
            ),
            run_config=tune.RunConfig(storage_path=str(Path(folder, "ray")), verbose=0, callbacks=callbacks),
        ).fit()


def _asha() -> ASHAScheduler:
    return ASHAScheduler(metric="accuracy", mode="max", max_t=len(STEPS), grace_period=1, reduction_factor=3)


class Suggested:
    """An Optuna trial seen as the space sees a sampler: what it suggests it also keeps."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def choice(self, name: str, options: Sequence[str]) -> str:
        return self._trial.suggest_categorical(name, list(options))

    def integer(self, name: str, low: int, high: int) -> int:
        return self._trial.suggest_int(name, low, high)

    def real(self, name: str, low: float, high: float) -> float:
        return self._trial.suggest_float(name, low, high, log=True)


def _draw(space: Space, evaluator: str, trial: optuna.Trial) -> dict[str, Any]:
    return {"candidate": space.draw(Suggested(trial)).canonical_json, "evaluator": evaluator}


def _search(space: Space, evaluator: EvaluatorSpec) -> OptunaSearch:
    sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, constant_liar=True)
    metrics, modes = ["accuracy", "trainable_params"], ["max", "min"]
    return OptunaSearch(
        partial(_draw, space, json.dumps(evaluator.to_json())), metric=metrics, mode=modes, sampler=sampler
    )


@contextmanager
def _default_environment() -> Iterator[None]:
    """Take away what our runner sets for itself; wait for earlier actors to go; undo what MLflow's callback sets."""
    with mock.patch.dict(os.environ):
        for name in _OURS:
            os.environ.pop(name, None)
        time.sleep(1.0)
        yield
