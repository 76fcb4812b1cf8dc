"""Ray's door: jobs run by Ray Tune on long-lived actors that build their evaluator once.

Our searcher hands out jobs, our scheduler decides at each rung, and both only pass on what the work says. Ray keeps
nothing: what it writes goes to a folder that is deleted, and nothing of it is ever restored.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we record; Ray's loggers would write every result three times
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study decides what an interrupt means
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Ray's own state is never restored
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)
if not os.environ.get("RAY_ADDRESS"):  # a cluster of our own lets in nobody else; Ray reads this when it is imported
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from evaluators.evaluation import Evaluator, EvaluatorSpec, Run, build_evaluator
from evaluators.score import Score
from orchestrator.crew import CrewTraining, Report, at_rung, finished, started
from orchestrator.jobs import Failure, Job, Work, failure_of
from orchestrator.spec import ResourcesSpec
from search_space.errors import ParetuneError

logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses files that we do not let it write


class CandidateTrainable(tune.Trainable):
    """An actor: builds its evaluator once, then trains one candidate after another."""

    def setup(self, config: dict[str, Any]) -> None:
        """Build the evaluator, which loads the backbone."""
        self._evaluator: Evaluator | None = None
        self._run: Run | None = None
        self._key = ""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next candidate, and drop the one that was, unless it goes on at once."""
        request = json.loads(new_config["request"])
        job = Job.from_json(request["job"])
        self._run = self._run if job.goes_on and job.key == self._key else None
        self._job, self._key = job, job.key
        self._seconds_left = request["seconds"]
        self._late = Path(request["late"])
        self._evaluator_spec = request["evaluator"]
        self._board = request.get("board")
        self._crew: CrewTraining | None = None
        self._rung = 0
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung. A failure is a result like any other."""
        try:
            report, done = self._advance()
        except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
            report, done = {"failure": failure_of(error).__dict__}, True
            self._run = self._crew = None
        return {"rung": self._rung, "report": json.dumps(report | {"seconds_left": self._seconds_left}), "done": done}

    def cleanup(self) -> None:
        """Let go of the candidate."""
        self._run = self._crew = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: the storage knows all that a resumed study needs."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Restore nothing."""

    def _advance(self) -> tuple[dict[str, Any], bool]:
        if self._evaluator is None:
            self._evaluator = build_evaluator(EvaluatorSpec.from_json(self._evaluator_spec))
        with self._guarded():
            return self._train_crew(self._evaluator) if self._job.mates else self._train(self._evaluator)

    def _train_crew(self, evaluator: Evaluator) -> tuple[dict[str, Any], bool]:
        """Train a job and its mates to their next rungs, without those that were stopped at the one before."""
        if self._crew is None:
            self._crew = CrewTraining(evaluator, self._job.crew)
        elif self._board:
            self._crew.drop(ray.get(ray.get_actor(self._board).stopped.remote([one.key for one in self._job.crew])))
        self._rung += 1
        return {"crew": self._crew.advance()}, self._crew.over

    def _train(self, evaluator: Evaluator) -> tuple[dict[str, Any], bool]:
        if self._run is None:
            self._run = started(evaluator, self._job)
        self._rung += 1
        if self._rung == len(self._job.rungs):
            return finished(self._run, self._job), True
        return at_rung(self._run, self._job, self._rung - 1), False

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """End this process when the candidate takes longer than it may: nothing softer stops a hanging kernel.

        Only the candidate's own time counts: neither loading the backbone nor waiting between rungs or candidates.
        """
        if self._seconds_left is None:
            yield
            return
        started = time.monotonic()
        watchdog = threading.Timer(max(self._seconds_left, 0.0), self._end_late)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            self._seconds_left -= time.monotonic() - started

    def _end_late(self) -> None:
        try:
            self._late.touch()
        finally:
            os._exit(124)


@ray.remote(num_cpus=0)
class _Board:
    """Where it stands which members of crews were stopped: Ray Tune tells a running actor nothing."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()

    def stop(self, key: str) -> None:
        """Take note that a job was stopped."""
        self._stopped.add(key)

    def stopped(self, keys: list[str]) -> list[str]:
        """Return which of some jobs were stopped."""
        return [key for key in keys if key in self._stopped]


@dataclass
class _Jobs:
    """Jobs that Ray Tune holds, by its name for the trial, each with when its time is up by `time.monotonic`.

    The seconds left to those that pause stand in `left`, by their own names.
    """

    work: Work
    seconds: float | None
    evaluator: dict[str, Any]
    scratch: Path
    board: str = ""
    left: dict[str, float] = field(default_factory=dict)
    held: dict[str, tuple[Job, float]] = field(default_factory=dict)
    ended: dict[str, set[str]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune pickles what it is given, for a restore that never happens: this becomes None."""
        return type(None), ()

    def end(self, trial_id: str, failure: Failure | None) -> None:
        """Settle what of a job and its mates has not ended."""
        held, _ = self.held.pop(trial_id, (None, 0.0))
        ended = self.ended.pop(trial_id, set())
        for job in held.crew if held is not None else ():
            if job.key not in ended:
                self.work.on_end(job, failure)

    def take_crew(self, trial_id: str, reports: Mapping[str, Report]) -> bool:
        """Take what a crew reports, each job for itself. Returns whether any of them goes on."""
        held, _ = self.held[trial_id]
        ended = self.ended.setdefault(trial_id, set())
        for job in held.crew:
            if job.key in reports and job.key not in ended and not self._goes_on(job, reports[job.key]):
                ended.add(job.key)
        if len(ended) < len(held.crew):
            return True
        self.end(trial_id, None)
        return False

    def _goes_on(self, job: Job, report: Report) -> bool:
        """Take what a member of a crew reports, and settle it where it ended. Returns whether it goes on."""
        if "failure" in report:
            self.work.on_end(job, Failure(**report["failure"]))
            return False
        goes_on = self.work.on_score(job, Score.from_json(report["score"]))
        if "test" in report:
            self.work.on_score(job, Score.from_json(report["test"]))
        if goes_on and not report["last"]:
            return True
        if not report["last"] and self.board:
            ray.get(ray.get_actor(self.board).stop.remote(job.key))
        self.work.on_end(job, None)
        return False

    def late(self, trial_id: str) -> Path:
        """The file that an actor leaves when it ends itself because its candidate takes too long."""
        return self.scratch / f"late-{trial_id}"

    def was_late(self, trial_id: str) -> bool:
        """Whether a process ended for that reason. An actor of another machine leaves no file: there the clock says."""
        if self.late(trial_id).exists():
            return True
        _, over = self.held.get(trial_id, (None, math.inf))
        return bool(os.environ.get("RAY_ADDRESS")) and time.monotonic() >= over

    def limit_of(self, job: Job) -> float | None:
        """Return the most seconds of a job and its mates together; None where there is no limit."""
        return None if self.seconds is None else self.left.get(job.key, self.seconds * len(job.crew))


class _JobSearcher(Searcher):
    """Hands out jobs as Ray Tune asks for configurations."""

    def __init__(self, jobs: _Jobs) -> None:
        super().__init__(metric="rung", mode="max")
        self._jobs = jobs

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = self._jobs.work.next_job()
        if job is None:  # to None Ray Tune asks again, after FINISHED never
            return None if self._jobs.work.more_later() else str(Searcher.FINISHED)
        limit = self._jobs.limit_of(job)
        self._jobs.held[trial_id] = (job, time.monotonic() + (math.inf if limit is None else limit))
        request = {"job": job.to_json(), "evaluator": self._jobs.evaluator, "seconds": limit}
        names = {"late": str(self._jobs.late(trial_id)), "board": self._jobs.board}
        return {"request": json.dumps(request | names)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A job that is still held here lost its process: what ended well was taken by the scheduler."""
        if not error:
            return
        if self._jobs.was_late(trial_id):
            self._jobs.end(trial_id, Failure("timeout", f"longer than {self._jobs.seconds:g} s, the limit of a trial"))
        else:
            self._jobs.end(
                trial_id, Failure("crashed", "its process died: killed, out of memory, or a fault in a library")
            )

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the storage is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _RungScheduler(FIFOScheduler):
    """Asks the work at each rung whether a job goes on."""

    def __init__(self, jobs: _Jobs) -> None:
        super().__init__()
        self._jobs = jobs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.trial_id not in self._jobs.held:
            return str(TrialScheduler.STOP)
        job, _ = self._jobs.held[trial.trial_id]
        if not self._take(trial.trial_id, job, result):
            self._jobs.end(trial.trial_id, None)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if trial.trial_id in self._jobs.held:
            job, _ = self._jobs.held[trial.trial_id]
            if self._take(trial.trial_id, job, result):
                self._jobs.end(trial.trial_id, None)

    def _take(self, trial_id: str, job: Job, result: dict[str, Any]) -> bool:
        """Pass on a result. Returns whether the job goes on, as far as the work is concerned."""
        report = json.loads(result["report"])
        if "crew" in report:
            return self._jobs.take_crew(trial_id, report["crew"])
        if "failure" in report:
            self._jobs.end(trial_id, Failure(**report["failure"]))
            return False
        if report["seconds_left"] is not None:
            self._jobs.left[job.key] = report["seconds_left"]
        goes_on = self._jobs.work.on_score(job, Score.from_json(report["score"]))
        if "test" in report:
            self._jobs.work.on_score(job, Score.from_json(report["test"]))
        return goes_on or bool(result.get("done"))


class _StoppedError(Exception):
    """Leaves Ray Tune's loop when the work says stop."""


class _Ticker(tune.Callback):
    """Looks at the work between the steps of Ray Tune's loop."""

    def __init__(self, jobs: _Jobs) -> None:
        self._jobs = jobs

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._jobs.work.should_stop():
            raise _StoppedError


@contextmanager
def cluster(resources: ResourcesSpec) -> Iterator[int]:
    """Connect to `RAY_ADDRESS`, or start Ray on this machine for as long as the context. Yields trials at once."""
    address = os.environ.get("RAY_ADDRESS")
    kwargs: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="ERROR", configure_logging=False, **kwargs)
    try:
        yield _room(resources)
    finally:
        ray.shutdown()


def _room(resources: ResourcesSpec) -> int:
    there = ray.cluster_resources()
    room = there.get("CPU", 1.0) / resources.cpus
    gpus = resources.reserved_gpus
    if gpus:
        room = min(room, there.get("GPU", 0.0) / gpus)
    if room < 1:
        raise ParetuneError(
            f"resources: a trial wants {resources.cpus:g} cpus and {gpus:g} gpus, "
            f"but there are {there.get('CPU', 0):g} and {there.get('GPU', 0):g}"
        )
    return min(int(room), resources.concurrency or int(room))


def run_jobs(
    work: Work, evaluator: EvaluatorSpec, resources: ResourcesSpec, at_once: int, seconds: float | None
) -> bool:
    """Run jobs until the work has no more, or says stop.

    Args:
        work: Where jobs come from.
        evaluator: What actors build.
        resources: What a job may use.
        at_once: Most jobs at once.
        seconds: Most seconds of a job.

    Returns:
        Whether the work ran to its end.
    """
    scratch = tempfile.mkdtemp(prefix="paretune-ray-")
    board = _board() if resources.together > 1 else None
    jobs = _Jobs(work, seconds, evaluator.to_json(), Path(scratch), board[0] if board else "")
    wanted = {"cpu": resources.cpus} | ({"gpu": gpus} if (gpus := resources.reserved_gpus) else {})
    tuner = tune.Tuner(
        tune.with_resources(CandidateTrainable, wanted),
        tune_config=tune.TuneConfig(
            search_alg=_JobSearcher(jobs),
            scheduler=_RungScheduler(jobs),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=scratch,
            verbose=0,
            callbacks=[_Ticker(jobs)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        tuner.fit()
    except _StoppedError:
        return False
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if board is not None:
            ray.kill(board[1])
    return True


def _board() -> tuple[str, Any]:
    """Start a board. Returns the name by which actors find it, and its handle."""
    name = f"paretune-board-{secrets.token_hex(8)}"
    return name, _Board.options(name=name).remote()  # type: ignore[attr-defined]
