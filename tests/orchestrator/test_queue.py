"""The queue through resubmissions, crowds and kills; drivers through deaths, stops and restarts of the server."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.drivers import Drivers, driver_environment, resume_command
from orchestrator.queue import Queue
from orchestrator.storage import Storage
from search_space.errors import StudyExistsError, StudyLockedError, StudyNotFoundError
from tests.dashboards.stored import add_settled, candidate, empty_home, score_of, set_paused, spec_of, start_trial

SLEEP = "import time; time.sleep(60)"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    home = empty_home(tmp_path / "home")
    return Queue(home, Storage(home.storage_url), clock)


class TestSubmission:
    def test_a_new_study_is_queued_and_stands_in_the_storage(self, queue: Queue) -> None:
        one, created = queue.submit(spec_of("first"))
        assert (one.state, created, one.attempts) == ("queued", True, 0)
        assert queue.storage.names() == ["first"]

    def test_the_same_key_is_the_same_submission_whatever_became_of_it(self, queue: Queue) -> None:
        one, _ = queue.submit(spec_of("first"), "key")
        assert queue.submit(spec_of("first"), "key") == (one, False)
        queue.claim()
        queue.settle("first", "failed", "no")
        again, created = queue.submit(spec_of("first"), "key")
        assert (again.state, created) == ("failed", False)

    def test_a_key_for_another_spec_is_a_conflict(self, queue: Queue) -> None:
        queue.submit(spec_of("first"), "key")
        with pytest.raises(StudyExistsError, match="idempotency key was used for another spec"):
            queue.submit(spec_of("second"), "key")
        assert queue.storage.names() == ["first"]

    def test_a_key_is_forgotten_after_a_month(self, queue: Queue, clock: Clock) -> None:
        queue.submit(spec_of("first"), "key")
        clock.time += 31 * 86400
        assert queue.submit(spec_of("second"), "key")[1]

    def test_a_name_with_another_spec_is_a_conflict_and_changes_nothing(self, queue: Queue) -> None:
        one, _ = queue.submit(spec_of("first"))
        with pytest.raises(StudyExistsError, match="another spec"):
            queue.submit(spec_of("first", search={"seed": 7}), "key")
        assert queue.submissions() == [one]
        assert queue.submit(spec_of("second"), "key")[1]

    def test_a_crowd_with_one_key_makes_one_study(self, queue: Queue) -> None:
        with ThreadPoolExecutor(20) as crowd:
            found = list(crowd.map(lambda _: queue.submit(spec_of("first"), "key"), range(100)))
        assert sum(created for _, created in found) == 1
        assert len({one for one, _ in found}) == 1
        assert queue.storage.names() == ["first"]

    def test_a_crowd_with_names_of_their_own_makes_them_all(self, queue: Queue) -> None:
        with ThreadPoolExecutor(10) as crowd:
            list(crowd.map(lambda index: queue.submit(spec_of(f"s{index}")), range(12)))
        assert sorted(one.name for one in queue.submissions()) == sorted(f"s{index}" for index in range(12))

    @pytest.mark.parametrize("state", ["failed", "stopped"])
    def test_what_did_not_end_well_is_queued_again_at_the_end(self, queue: Queue, state: str) -> None:
        queue.submit(spec_of("first"))
        queue.claim()
        queue.settle("first", state)  # type: ignore[arg-type]
        queue.submit(spec_of("second"))
        one, created = queue.submit(spec_of("first"))
        assert (one.state, one.attempts, created) == ("queued", 0, False)
        assert [each.name for each in queue.submissions()] == ["second", "first"]

    def test_what_is_complete_stays_so_unless_its_budget_grows(self, queue: Queue) -> None:
        queue.submit(spec_of("first"))
        queue.claim()
        queue.settle("first", "complete")
        assert queue.submit(spec_of("first"))[0].state == "complete"
        more = spec_of("first", budgets={"trainable_params": "1%", "memory": "2GiB", "trials": 99})
        assert queue.submit(more)[0].state == "queued"
        assert queue.storage.open("first").spec.budgets.trials == 99

    def test_a_running_study_keeps_its_budget(self, queue: Queue) -> None:
        queue.submit(spec_of("first"))
        queue.claim()
        assert queue.submit(spec_of("first"))[0].state == "running"
        with pytest.raises(StudyLockedError, match="stop it before"):
            queue.submit(spec_of("first", resources={"concurrency": 2}))

    def test_a_study_that_the_command_line_runs_is_left_alone(self, queue: Queue) -> None:
        queue.storage.create(spec_of("first"))
        with queue.home.drive("first"), pytest.raises(StudyLockedError):
            queue.submit(spec_of("first"))
        one, created = queue.submit(spec_of("first"))
        assert (one.state, created) == ("queued", False)

    def test_resume_queues_what_the_storage_has(self, queue: Queue) -> None:
        queue.storage.create(spec_of("first"))
        assert queue.resume("first").state == "queued"
        with pytest.raises(StudyNotFoundError):
            queue.resume("second")


class TestOrder:
    def test_first_come_first_served(self, queue: Queue) -> None:
        for name in ("b", "a", "c"):
            queue.submit(spec_of(name))
        claimed = [queue.claim() for _ in range(4)]
        assert [one.name if one else None for one in claimed] == ["b", "a", "c", None]

    def test_a_crowd_of_claims_takes_each_once(self, queue: Queue) -> None:
        for index in range(10):
            queue.submit(spec_of(f"s{index}"))
        with ThreadPoolExecutor(10) as crowd:
            claimed = list(crowd.map(lambda _: queue.claim(), range(20)))
        names = [one.name for one in claimed if one]
        assert len(names) == len(set(names)) == 10

    def test_a_study_that_is_tried_again_waits_and_keeps_its_place(self, queue: Queue, clock: Clock) -> None:
        queue.submit(spec_of("first"))
        queue.submit(spec_of("second"))
        queue.claim()
        queue.retry("first", "it died", 5.0, 1)
        assert queue.find("first").reason == "it died"  # type: ignore[union-attr]
        clock.time += 6
        assert queue.claim().name == "first"  # type: ignore[union-attr]

    def test_what_is_stopped_before_its_turn_never_starts(self, queue: Queue) -> None:
        queue.submit(spec_of("first"))
        assert queue.stop("first").state == "stopped"  # type: ignore[union-attr]
        assert queue.claim() is None
        assert not queue.storage.open("first").noted("stop")

    def test_stopping_is_asked_once_and_of_the_driver(self, queue: Queue, clock: Clock) -> None:
        queue.submit(spec_of("first"))
        queue.claim()
        asked = queue.stop("first").stop_requested  # type: ignore[union-attr]
        clock.time += 3
        assert queue.stop("first").stop_requested == asked  # type: ignore[union-attr]
        assert queue.storage.open("first").noted("stop") is True
        with pytest.raises(StudyNotFoundError):
            queue.stop("second")


SUBMITTING = """
import sys
from orchestrator.home import Home
from orchestrator.queue import Queue
from orchestrator.storage import Storage
from tests.dashboards.stored import spec_of
home = Home().create()
queue = Queue(home, Storage(home.storage_url))
for index in range(10_000):
    queue.submit(spec_of(f"s{index}"), f"k{index}")
    print(index, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    home = empty_home(tmp_path / "home")
    child = subprocess.Popen(
        [sys.executable, "-c", SUBMITTING],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PARETUNE_HOME": str(home.root), "PYTHONPATH": os.getcwd()},
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.05, 0.4))
    child.kill()
    acknowledged = 1 + len(child.stdout.read().splitlines())
    child.wait()
    queue = Queue(home, Storage(home.storage_url))
    names = [one.name for one in queue.submissions()]
    assert names[:acknowledged] == [f"s{index}" for index in range(acknowledged)]
    with sqlite3.connect(home.root / "queue.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for index in range(acknowledged + 2):
        queue.submit(spec_of(f"s{index}"), f"k{index}")
    assert len({one.name for one in queue.submissions()}) == len(queue.submissions())


class Stage:
    """Drivers that run short scripts in place of studies, on one queue; what still runs at the end is killed."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.script = SLEEP
        self.open: list[Drivers] = []

    def drivers(self, **settings: float) -> Drivers:
        command = lambda _: [sys.executable, "-S", "-c", self.script]  # noqa: E731
        one = Drivers(self.queue, command, {"PATH": os.environ["PATH"]}, **{"backoff": 0.0, **settings})  # type: ignore[arg-type]
        self.open.append(one)
        return one

    def pid(self, name: str = "first") -> int:
        pid = self.queue.find(name).pid  # type: ignore[union-attr]
        assert pid is not None
        return pid

    def state(self, name: str = "first") -> str:
        return self.queue.find(name).state  # type: ignore[union-attr]

    def end(self) -> None:
        for one in self.queue.submissions():
            if one.pid:
                _kill(one.pid)
        for each in self.open:
            each.close()


@pytest.fixture
def stage(queue: Queue) -> Iterator[Stage]:
    one = Stage(queue)
    queue.submit(spec_of("first"))
    yield one
    one.end()


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _until(drivers: Drivers, done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Work the queue until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not come to it"
        drivers.step()
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


class TestDrivers:
    def test_a_study_runs_in_a_process_of_its_own_and_completes(self, stage: Stage) -> None:
        stage.script = "print('hello'); import time; time.sleep(0.2)"
        drivers = stage.drivers()
        drivers.step()
        assert stage.state() == "running"
        assert os.getsid(stage.pid()) == stage.pid() != os.getsid(0)
        stage.queue.storage.open("first").note("status", "complete")
        _until(drivers, lambda: stage.state() == "complete")
        assert (stage.queue.home.study("first") / "driver.log").read_text() == "hello\n"

    def test_some_run_at_once_and_the_others_wait(self, stage: Stage) -> None:
        for name in ("second", "third"):
            stage.queue.submit(spec_of(name))
        drivers = stage.drivers(at_once=2)
        drivers.step()
        drivers.step()
        assert [one.state for one in stage.queue.submissions()] == ["running", "running", "queued"]

    def test_the_token_is_not_given_to_drivers(self, queue: Queue) -> None:
        outside = {"PARETUNE_TOKEN": "x", "PARETUNE_TOKEN_FILE": "y", "_MLFLOW_SERVER_FILE_STORE": "z", "HF_TOKEN": "t"}
        inside = driver_environment(queue.home, outside)
        assert set(inside) == {"HF_TOKEN", "PARETUNE_HOME", "MLFLOW_TRACKING_URI", "PYTHONUNBUFFERED"}

    def test_the_command_continues_the_study(self) -> None:
        assert resume_command("x") == [sys.executable, "-m", "orchestrator.cli", "resume", "x"]

    def test_a_driver_that_is_killed_starts_again_and_in_the_end_has_failed(self, stage: Stage) -> None:
        drivers = stage.drivers(attempts=3)
        for attempt in (1, 2, 3):
            _until(drivers, lambda: stage.state() == "running" and stage.queue.find("first").pid is not None)  # type: ignore[union-attr]
            assert stage.queue.find("first").attempts == attempt  # type: ignore[union-attr]
            pid = stage.pid()
            os.kill(pid, signal.SIGKILL)
            _until(drivers, lambda gone=pid: stage.queue.find("first").pid != gone)  # type: ignore[misc,union-attr]
        assert stage.state() == "failed"
        assert "died 3 times" in stage.queue.find("first").reason  # type: ignore[union-attr]
        assert "SIGKILL" in stage.queue.find("first").reason  # type: ignore[union-attr]

    def test_deaths_are_forgiven_when_there_was_progress(self, stage: Stage) -> None:
        drivers = stage.drivers(attempts=1)
        drivers.step()
        add_settled(stage.queue.storage.open("first"), candidate("ia3"))
        pid = stage.pid()
        os.kill(pid, signal.SIGKILL)
        _until(drivers, lambda: stage.queue.find("first").pid not in (pid, None))  # type: ignore[union-attr]
        assert stage.state() == "running"

    def test_a_rung_is_progress_once_its_candidate_was_paused(self, stage: Stage) -> None:
        drivers = stage.drivers()
        store = stage.queue.storage.open("first")
        one = candidate("ia3")
        number = start_trial(store, one)
        store.report("search", number, score_of(one, 33, random.Random(0)))
        assert drivers._progress("first") == 0, "it is trained again"
        set_paused(store, number, True)
        assert drivers._progress("first") == 1
        set_paused(store, number, False)
        assert drivers._progress("first") == 1
        store.report("search", number, score_of(one, 100, random.Random(0)))
        set_paused(store, number, True)
        assert drivers._progress("first") == 2
        store.finish("search", number, "partial")
        assert drivers._progress("first") == 3

    def test_bad_input_fails_at_once_with_its_reason_and_without_secrets(self, stage: Stage) -> None:
        stage.script = "import sys; print('no model at https://me:hunter22@hub.example hf_abcdefghijkl'); sys.exit(2)"
        drivers = stage.drivers()
        _until(drivers, lambda: stage.state() == "failed")
        reason = stage.queue.find("first").reason  # type: ignore[union-attr]
        assert "exit code 2: no model at https://***@hub.example ***" in reason
        assert "hunter22" not in reason

    def test_a_study_whose_driver_noted_a_failure_is_not_tried_again(self, stage: Stage) -> None:
        stage.script = "import sys, time; time.sleep(0.2); sys.exit(1)"
        drivers = stage.drivers()
        drivers.step()
        stage.queue.storage.open("first").note("status", "failed")
        _until(drivers, lambda: stage.state() == "failed")

    def test_a_command_that_is_not_there_fails_the_study(self, stage: Stage) -> None:
        drivers = Drivers(stage.queue, lambda _: ["/no/such/program"], {})
        drivers.step()
        assert stage.state() == "failed"
        drivers.close()

    def test_a_driver_that_stops_when_asked_is_not_hurt(self, stage: Stage, clock: Clock) -> None:
        stage.script = "import time; time.sleep(0.3)"
        drivers = stage.drivers(grace=100)
        drivers.step()
        stage.queue.stop("first")
        stage.queue.storage.open("first").note("status", "stopped")
        _until(drivers, lambda: stage.state() == "stopped")

    def test_a_stop_that_a_starting_driver_took_back_is_asked_again(self, stage: Stage) -> None:
        drivers = stage.drivers(grace=100)
        drivers.step()
        stage.queue.stop("first")
        store = stage.queue.storage.open("first")
        store.note("stop", False)
        drivers.step()
        assert store.noted("stop") is True

    def test_a_driver_that_does_not_stop_is_ended(self, stage: Stage, clock: Clock) -> None:
        drivers = stage.drivers(grace=5)
        drivers.step()
        stage.queue.stop("first")
        drivers.step()
        assert stage.state() == "running"
        clock.time += 6
        _until(drivers, lambda: stage.state() == "stopped")

    def test_a_driver_that_cannot_be_ended_is_killed_with_its_children(
        self, stage: Stage, clock: Clock, tmp_path: Path
    ) -> None:
        stage.script = (
            "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            f"child = os.fork()\nif child: open({str(tmp_path / 'child')!r}, 'w').write(str(child))\ntime.sleep(60)"
        )
        drivers = stage.drivers(grace=5)
        drivers.step()
        _until(drivers, lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
        child = int((tmp_path / "child").read_text())
        stage.queue.stop("first")
        clock.time += 6
        drivers.step()
        drivers.step()
        assert stage.state() == "running"
        clock.time += 5
        _until(drivers, lambda: stage.state() == "stopped" and not _alive(child))


class TestRestart:
    def test_a_living_driver_is_adopted(self, stage: Stage) -> None:
        before = stage.drivers()
        before.step()
        pid = stage.pid()
        before.close()
        after = stage.drivers()
        for _ in range(3):
            after.step()
        assert (stage.state(), stage.pid()) == ("running", pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _until(after, lambda: stage.queue.find("first").pid not in (pid, None))  # type: ignore[union-attr]
        assert stage.state() == "running"
        assert stage.queue.find("first").attempts == 2  # type: ignore[union-attr]

    def test_an_adopted_driver_that_ends_well_is_complete(self, stage: Stage) -> None:
        stage.drivers().step()
        stage.open[0].close()
        pid = stage.pid()
        stage.queue.storage.open("first").note("status", "complete")
        _kill(pid)
        after = stage.drivers()
        after.step()
        assert stage.state() == "complete"

    def test_an_adopted_driver_can_be_ended(self, stage: Stage, clock: Clock) -> None:
        stage.drivers().step()
        stage.open[0].close()
        pid = stage.pid()
        threading.Thread(target=os.waitpid, args=(pid, 0), daemon=True).start()
        stage.queue.stop("first")
        clock.time += 60
        after = stage.drivers(grace=5)
        _until(after, lambda: stage.state() == "stopped")
        assert not _alive(pid)

    def test_a_server_killed_between_claim_and_start_loses_nothing(self, stage: Stage) -> None:
        stage.queue.claim()
        drivers = stage.drivers()
        drivers.step()
        _until(drivers, lambda: stage.queue.find("first").pid is not None)  # type: ignore[union-attr]
        assert stage.state() == "running"

    def test_a_study_that_the_command_line_took_over_is_left_to_it(self, stage: Stage) -> None:
        stage.queue.claim()
        drivers = stage.drivers()
        with stage.queue.home.drive("first"):
            drivers.step()
            assert (stage.state(), stage.queue.find("first").pid) == ("running", None)  # type: ignore[union-attr]

    def test_a_driver_that_a_shutdown_ended_is_started_again(self, stage: Stage) -> None:
        stage.drivers().step()
        stage.open[0].close()
        pid = stage.pid()
        stage.queue.storage.open("first").note("status", "stopped")
        _kill(pid)
        after = stage.drivers()
        _until(after, lambda: stage.queue.find("first").pid not in (pid, None))  # type: ignore[union-attr]

    def test_one_server_works_the_queue(self, stage: Stage) -> None:
        first, second = stage.drivers(), stage.drivers()
        stage.queue.submit(spec_of("second"))
        first.step()
        second.step()
        assert [one.state for one in stage.queue.submissions()] == ["running", "queued"]
        first.close()
        second.step()
        assert stage.state() == "running"

    def test_it_runs_until_it_is_told_to_end(self, stage: Stage) -> None:
        ended = threading.Event()
        drivers = stage.drivers()
        thread = threading.Thread(target=drivers.run, args=(ended, 0.01))
        thread.start()
        while stage.queue.find("first").pid is None:  # type: ignore[union-attr]
            time.sleep(0.01)
        ended.set()
        thread.join(timeout=5)
        assert _alive(stage.pid())
