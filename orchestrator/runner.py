"""Ray's door: jobs run by Ray Tune on long-lived actors that build their evaluator once.

Our searcher hands out jobs, our scheduler decides at each rung, and both only pass on what the work says. Ray keeps
nothing: what it writes goes to a folder that is deleted, and nothing of it is ever restored.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
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
from orchestrator.jobs import Failure, Job, Work, failure_of
from orchestrator.spec import ResourcesSpec
from search_space.errors import ParetuneError

logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses files that we do not let it write


class CandidateTrainable(tune.Trainable):
    """An actor: builds its evaluator once, then trains one candidate after another."""

    def setup(self, config: dict[str, Any]) -> None:
        """Build the evaluator, which loads the backbone."""
        self._evaluator: Evaluator | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the candidate that was, and take the next."""
        request = json.loads(new_config["request"])
        self._job = Job.from_json(request["job"])
        self._seconds_left = request["seconds"]
        self._late = Path(request["late"])
        self._evaluator_spec = request["evaluator"]
        self._run: Run | None = None
        self._rung = 0
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung. A failure is a result like any other."""
        try:
            report, done = self._advance()
        except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
            report, done = {"failure": failure_of(error).__dict__}, True
            self._run = None
        return {"rung": self._rung, "report": json.dumps(report), "done": done}

    def cleanup(self) -> None:
        """Let go of the candidate."""
        self._run = None

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
        """Train a job and its mates, each to its end. What fails in one of them is that one's result.

        Where the memory does not hold all of them at once, they are trained one after another, from the beginning.
        """
        jobs = self._job.crew
        runs = _trained_together(evaluator, jobs)
        if runs is None:
            return {"crew": {job.key: _alone(evaluator, job) for job in jobs}}, True
        return {"crew": {job.key: _ended(run, job) for job, run in zip(jobs, runs, strict=True)}}, True

    def _train(self, evaluator: Evaluator) -> tuple[dict[str, Any], bool]:
        if self._run is None:
            self._run = _started(evaluator, self._job)
        self._rung += 1
        if self._rung == len(self._job.rungs):
            return _finished(self._run, self._job), True
        return {"score": self._run.advance(self._job.rungs[self._rung - 1]).to_json()}, False

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


def _started(evaluator: Evaluator, job: Job) -> Run:
    return evaluator.start(job.candidate, job.seed, job.accumulation)


def _trained_together(evaluator: Evaluator, jobs: Sequence[Job]) -> list[Run] | None:
    """Return the runs of jobs, trained together as far as that is faster; None where memory runs out."""
    try:
        runs = [_started(evaluator, job) for job in jobs]
        evaluator.train_together(runs)
    except Exception as error:
        if failure_of(error).cause != "out_of_memory":
            raise
        return None
    return runs


def _alone(evaluator: Evaluator, job: Job) -> dict[str, Any]:
    """Train a job from its start, and return what it reports."""
    try:
        return _finished(_started(evaluator, job), job)
    except Exception as error:  # noqa: BLE001  (as below)
        return {"failure": failure_of(error).__dict__}


def _finished(run: Run, job: Job) -> dict[str, Any]:
    """Train a run to its last rung, keep what the job wants kept, and return what it reports."""
    report = {"score": run.advance(job.rungs[-1]).to_json()}
    if job.folder:
        run.save(Path(job.folder))
    if job.test:
        report["test"] = run.test(Path(job.folder) if job.folder else None).to_json()
    return report


def _ended(run: Run, job: Job) -> dict[str, Any]:
    try:
        return _finished(run, job)
    except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
        return {"failure": failure_of(error).__dict__}


@dataclass
class _Jobs:
    """Jobs that Ray Tune holds, by its name for the trial."""

    work: Work
    seconds: float | None
    evaluator: dict[str, Any]
    scratch: Path
    held: dict[str, tuple[Job, float]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune pickles what it is given, for a restore that never happens: this becomes None."""
        return type(None), ()

    def end(self, trial_id: str, failure: Failure | None) -> None:
        held, _ = self.held.pop(trial_id, (None, 0.0))
        for job in held.crew if held is not None else ():
            self.work.on_end(job, failure)

    def end_crew(self, trial_id: str, reports: dict[str, Any]) -> None:
        """Settle jobs that were trained together, each by its own report."""
        held, _ = self.held.pop(trial_id)
        for job in held.crew:
            report = reports[job.key]
            for kind in ("score", "test"):
                if kind in report:
                    self.work.on_score(job, Score.from_json(report[kind]))
            self.work.on_end(job, Failure(**report["failure"]) if "failure" in report else None)

    def late(self, trial_id: str) -> Path:
        """The file that an actor leaves when it ends itself because its candidate takes too long."""
        return self.scratch / f"late-{trial_id}"

    def was_late(self, trial_id: str) -> bool:
        """Whether a process ended for that reason. An actor of another machine leaves no file: there the clock says."""
        _, started = self.held.get(trial_id, (None, 0.0))
        elsewhere = self.seconds is not None and bool(os.environ.get("RAY_ADDRESS"))
        return self.late(trial_id).exists() or (elsewhere and time.monotonic() - started >= (self.seconds or 0.0))


class _JobSearcher(Searcher):
    """Hands out jobs as Ray Tune asks for configurations."""

    def __init__(self, jobs: _Jobs) -> None:
        super().__init__(metric="rung", mode="max")
        self._jobs = jobs

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = self._jobs.work.next_job()
        if job is None:  # to None Ray Tune asks again, after FINISHED never
            return None if self._jobs.work.more_later() else str(Searcher.FINISHED)
        self._jobs.held[trial_id] = (job, time.monotonic())
        seconds = None if self._jobs.seconds is None else self._jobs.seconds * len(job.crew)
        request = {"job": job.to_json(), "evaluator": self._jobs.evaluator, "seconds": seconds}
        return {"request": json.dumps({**request, "late": str(self._jobs.late(trial_id))})}

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
            self._jobs.end_crew(trial_id, report["crew"])
            return False
        if "failure" in report:
            self._jobs.end(trial_id, Failure(**report["failure"]))
            return False
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
    jobs = _Jobs(work, seconds, evaluator.to_json(), Path(scratch))
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
    return True
