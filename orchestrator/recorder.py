"""MLflow's door: the record that people look at, projected from the storage and never read back as truth.

Every run is found by its tags before it is created, its metrics carry time stamps of the storage, and it is settled
last. So a process may die between any two calls, and the next one completes what is missing, once. A server that does
not answer never fails a study: what could not be written waits, and is written with the next call that gets through.

A finalist's run carries pictures of its calibration, drawn from what it left in the study's folder; a tag says that
they are there. A trial whose files are elsewhere is recorded without them.

Only MLflow's client is used, never its fluent functions: nothing here depends on, or changes, an active run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.front import Front, Tag, front_of_study
from orchestrator.projection import (
    STUDY_KEY,
    Point,
    Run,
    has_ended,
    run_of,
    run_of_study,
    runs_of_predictors,
    span_of,
    study_files,
)
from orchestrator.redaction import redact
from orchestrator.storage import StudyStore
from orchestrator.trial import PHASES, Trial

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A request sent twice may create a run twice. What fails waits here, and is looked for before it is sent again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow.entities import Metric, Param, RunTag, ViewType  # noqa: E402  (it reads the environment when it is imported)
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

for _name in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_LOG = logging.getLogger("paretune.recorder")
_UNREACHABLE = (MlflowException, OSError, SQLAlchemyError)
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MOST_METRICS_A_CALL = 800
PICTURES = "paretune.pictures"
PATIENCE = 10.0
"""A server that took one second to fail is left alone for ten, so that no study waits long for its record."""


@dataclass(frozen=True)
class Recorded:
    """What became of a record.

    Attributes:
        runs: Runs of this study that stand in MLflow.
        created: How many of them this recorder created.
        waiting: Runs that could not be written yet.
        refused: Runs that MLflow does not take, by key, and why.
        problem: Why, in words; empty when all is written.
    """

    runs: int
    created: int
    waiting: int
    refused: Mapping[str, str]
    problem: str


@dataclass
class _Written:
    """A run as it stands in MLflow; `points` is None where all of them are known to be written."""

    run_id: str
    status: str
    tags: dict[str, str]
    params: set[str] = field(default_factory=set)
    points: set[Point] | None = field(default_factory=set)


class Ledger:
    """The runs of one study in MLflow: looked up once, and kept in step with what is written from then on."""

    def __init__(self, client: Any, study: str, identity: str, artifacts: str | None) -> None:
        self._client = client
        self._tags = {"paretune.study": study, "paretune.identity": identity}
        self._experiment = _experiment(client, f"paretune/{study}", artifacts)
        self.runs = {one.tags["paretune.trial"]: one for one in self._find()}

    def enter(self, run: Run) -> str:
        """Create a run unless it is there. Returns MLflow's id of it."""
        return (self.runs.get(run.key) or self._create(run)).run_id

    def write(self, run: Run) -> None:
        """Bring MLflow in step with a run, creating it where it is not there. Its status is settled last."""
        written = self.runs.get(run.key) or self._create(run)
        if written.status != run.status == "RUNNING":
            self._client.update_run(written.run_id, status="RUNNING")
            written.status = "RUNNING"
        self._log(written, run)
        if written.status != run.status:
            self._client.set_terminated(written.run_id, run.status, run.finished_ms)
            written.status = run.status

    def retag(self, key: str, tag: Tag) -> None:
        """Set what the front says of a trial, where it is recorded and says something else."""
        written = self.runs.get(key)
        if written is not None and written.tags.get("pareto") != tag:
            self._client.log_batch(written.run_id, tags=[RunTag("pareto", tag)])
            written.tags["pareto"] = tag

    def _find(self) -> Iterator[_Written]:
        """Look this study's runs up, the newest first. Should there be two of a trial, the oldest counts."""
        wanted = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in self._tags.items())
        token = None
        while True:
            page = self._client.search_runs([self._experiment], wanted, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            yield from (_read(run) for run in page if "paretune.trial" in run.data.tags)
            token = page.token
            if not token:
                return

    def _create(self, run: Run) -> _Written:
        tags = {**run.tags, **self._tags, "mlflow.source.name": "paretune"}
        made = self._client.create_run(self._experiment, run.started_ms, tags, run.name)
        self.runs[run.key] = _Written(made.info.run_id, "RUNNING", tags)
        return self.runs[run.key]

    def _log(self, written: _Written, run: Run) -> None:
        """Write what is not there yet, in one call unless there is too much of it."""
        params = [Param(name, value) for name, value in run.params.items() if name not in written.params]
        tags = [RunTag(name, value) for name, value in run.tags.items() if written.tags.get(name) != value]
        points = [] if written.points is None else [one for one in run.points if one not in written.points]
        metrics = [Metric(one.name, one.value, one.time_ms, one.step) for one in points]
        if params or tags or metrics:
            self._client.log_batch(written.run_id, metrics[:MOST_METRICS_A_CALL], params, tags)
        for start in range(MOST_METRICS_A_CALL, len(metrics), MOST_METRICS_A_CALL):
            self._client.log_batch(written.run_id, metrics[start : start + MOST_METRICS_A_CALL])
        written.params |= set(run.params)
        written.tags |= run.tags
        if written.points is not None:
            written.points |= set(points)


class Recorder:
    """Records one study in MLflow. Not for several threads at once, and for one process at a time: the driver.

    Nothing is connected to before the first call. No method raises because MLflow cannot be reached or refuses.

    Args:
        tracking_uri: MLflow's tracking URI.
        artifacts: Where artifacts are kept when the URI is a database, which has no place of its own for them.
        store: The study.
        folder: Where its trials left their files; None where that is not known.
    """

    def __init__(self, tracking_uri: str, artifacts: Path, store: StudyStore, folder: Path | None = None) -> None:
        self.folder = folder
        self.tracking_uri = tracking_uri
        self.artifacts = artifacts
        self.store = store
        self._ledger: Ledger | None = None
        self._found: set[str] | None = None
        self._runs: dict[str, Run] = {}
        self._tags: dict[str, Tag] = {}
        self._front: Front | None = None
        self._study_waits = True
        self._span = (0, 0)
        self._files: dict[str, bytes] = {}
        self._uploaded: dict[tuple[str, str], str] = {}
        self._resume_at = 0.0
        self._problem = ""
        self._refused: dict[str, str] = {}

    def record_trial(self, trial: Trial, tag: Tag | None = None) -> None:
        """Record a trial as it stands; `tag` is what the front says of it, where that is known already."""
        self._runs[trial.key] = run_of(trial, tag)
        self._write()

    def record_study(self, front: Front, files: Mapping[str, bytes | str] | None = None) -> None:
        """Record the front: the tags that it changes, the hypervolume, and files as artifacts of the study's run."""
        self._take(front, files or {})
        self._write()

    def record_all(self) -> Recorded:
        """Bring the whole record in step with the storage: every trial of every phase, the front and its files.

        Raises:
            StudyError: The study was never started, and has no limits to find its front by.
        """
        from orchestrator.figures import pareto_files  # its libraries load slowly, and are needed here alone

        trials = {phase: self.store.trials(phase) for phase in PHASES}
        front = front_of_study(self.store)
        for one in (one for phase in PHASES for one in trials[phase]):
            self._runs[one.key] = run_of(one, front.tags.get(one.number) if one.phase == "search" else None)
        for run in runs_of_predictors(front.predictors, trials["finalists"]):
            self._runs[run.key] = run
        self._take(front, pareto_files(front, trials["search"], trials["references"]))
        self._resume_at = 0.0
        self._write()
        runs = set(self._ledger.runs) if self._ledger else set()
        waiting = len(self._runs) + len(self._tags)
        return Recorded(len(runs), len(runs - (self._found or set())), waiting, dict(self._refused), self._problem)

    def _take(self, front: Front, files: Mapping[str, bytes | str]) -> None:
        """Keep what is to be written of a front; it replaces what an earlier one left."""
        self._front = front
        self._study_waits = True
        self._files |= {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        known = {number: tag for number, tag in front.tags.items() if tag not in ("running", "paused")}
        self._tags = {f"search/{number}": tag for number, tag in known.items()}
        for key in self._tags.keys() & self._runs.keys():
            self._runs[key] = self._runs[key].tagged(self._tags[key])

    def _write(self) -> None:
        """Write what waits, unless the server is being left alone. What fails goes on waiting."""
        began = time.monotonic()
        if began < self._resume_at:
            return
        try:
            self._write_waiting(self._ledger or self._open())
            self._problem = ""
        except _UNREACHABLE as error:
            # It may have been written without an answer: look again before anything is created.
            self._ledger = None
            self._resume_at = time.monotonic() + PATIENCE * (time.monotonic() - began)
            self._warn(error)

    def _write_waiting(self, ledger: Ledger) -> None:
        study = self._study_run() if self._study_waits or STUDY_KEY not in ledger.runs else None
        parent = ledger.enter(study) if study else ledger.runs[STUDY_KEY].run_id
        for key in list(self._runs):
            self._write_one(ledger, self._runs[key].under(parent))
            del self._runs[key]
        for key in list(self._tags):
            ledger.retag(key, self._tags[key])
            del self._tags[key]
        self._upload(parent)
        if study:
            ledger.write(study)
            self._study_waits = False

    def _write_one(self, ledger: Ledger, run: Run) -> None:
        """Write a run. One that MLflow refuses for what it holds is warned of, and keeps no other waiting."""
        try:
            ledger.write(self._with_pictures(ledger, run))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            self._refused[run.key] = redact(str(error))
            _LOG.warning("MLflow refuses %s: %s", run.key, self._refused[run.key])

    def _with_pictures(self, ledger: Ledger, run: Run) -> Run:
        """Upload the pictures of a finalist that has none yet. Returns the run with the tag that says so."""
        written = ledger.runs.get(run.key)
        if not run.key.startswith("finalists/") or run.status != "FINISHED" or self.folder is None:
            return run
        if written is not None and PICTURES in written.tags:
            return run
        run_id = ledger.enter(run)
        files = self._draw(run, self.folder / run.key)
        if not files:
            return run
        self._send(run_id, files)
        return replace(run, tags={**run.tags, PICTURES: ", ".join(sorted(files))})

    def _draw(self, run: Run, folder: Path) -> dict[str, bytes]:
        """Draw what a trial left. What is damaged is warned of, and not drawn."""
        from orchestrator.figures.probabilities import trial_files  # its libraries load slowly, and few runs need them

        try:
            return trial_files(folder, f"{self.store.name}, {run.name}", self.store.spec.calibration.bins)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _LOG.warning("%s has no pictures: what is in %s cannot be drawn: %s", run.key, folder, error)
            return {}

    def _send(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Write files as artifacts of a run."""
        with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            self._client.log_artifacts(run_id, folder)

    def _open(self) -> Ledger:
        """Connect, and look up what stands there already."""
        _write_ahead(self.tracking_uri)
        client = MlflowClient(tracking_uri=self.tracking_uri)
        place = (self.artifacts / self.store.name).as_uri() if _scheme(self.tracking_uri) in _DATABASES else None
        self._ledger = Ledger(client, self.store.name, self._identity(), place)
        self._found = set(self._ledger.runs) if self._found is None else self._found
        self._client = client
        return self._ledger

    def _identity(self) -> str:
        """Return what tells this study from another of the same name, recorded from another storage."""
        noted = self.store.noted("identity")
        if noted is None:
            noted = uuid.uuid4().hex
            self.store.note("identity", noted)
        return str(noted)

    def _study_run(self) -> Run:
        status = self.store.noted("status")
        if not self._span[0] or has_ended(status):
            self._span = span_of([one for phase in PHASES for one in self.store.trials(phase)])
        return run_of_study(self.store.spec, self._front, status, self._span)

    def _upload(self, parent: str) -> None:
        """Write the files that are new or have changed, as artifacts of the study's run."""
        if not self._uploaded:
            spec_files = study_files(self.store.spec, self.store.noted("environment"))
            self._files = {name: text.encode() for name, text in spec_files.items()} | self._files
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self._files.items()}
        changed = [name for name, digest in digests.items() if self._uploaded.get((parent, name)) != digest]
        if changed:
            self._send(parent, {name: self._files[name] for name in changed})
        self._uploaded |= {(parent, name): digest for name, digest in digests.items()}
        self._files.clear()

    def _warn(self, error: Exception) -> None:
        """Say once that the server does not answer, and keep why."""
        problem = redact(f"MLflow at {self.tracking_uri} cannot be written: {error}")
        if not self._problem:
            _LOG.warning("%s. The study goes on, and is recorded later", problem)
        self._problem = problem


def _read(run: Any) -> _Written:
    """Read a run that was found. Of a settled trial everything is written, since it is settled last."""
    settled = run.info.status != "RUNNING" and run.data.tags["paretune.trial"] != STUDY_KEY
    points: set[Point] | None = None if settled else set()
    return _Written(run.info.run_id, run.info.status, dict(run.data.tags), set(run.data.params), points)


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """Return the id of an experiment: found, brought back where somebody deleted it, or created."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0]


def _write_ahead(uri: str) -> None:
    """SQLite: a write-ahead log halves the time of a write, and readers do not wait. It stays with the file."""
    path = make_url(uri).database if _scheme(uri) == "sqlite" else None
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=5)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
