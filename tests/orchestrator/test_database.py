"""The database under the storage: which URLs are taken, and a lock that other machines see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.database import connect
from orchestrator.simulation import simulate
from orchestrator.storage import Storage, StudyStore
from search_space.errors import StudyError, StudyLockedError
from tests.orchestrator.tables import space_of, spec_of, table_of

HOLD = """
import sys
from orchestrator.storage import Storage
with Storage(sys.argv[1]).drive("shared"):
    print("held", flush=True)
    sys.stdin.read()
"""
DRIVE = """
import sys
from orchestrator.simulation import simulate
from orchestrator.storage import Storage
from tests.orchestrator.tables import space_of, spec_of, table_of
spec = spec_of(name=sys.argv[2])
store = Storage(sys.argv[1]).create(spec)
simulate(spec, space_of(spec), table_of(), store=store, at_once=2)
"""


@pytest.mark.parametrize("url", ["mysql://host/name", "paretune.db", "", "redis://x"])
def test_other_databases_are_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(StudyError, match=r"sqlite:////folder/file\.db, or postgresql://host/name"):
        connect(url)


def test_a_sqlite_file_needs_no_lock_but_the_homes(tmp_path: Path) -> None:
    storage = Storage(f"sqlite:///{tmp_path / 'a.db'}")
    with storage.drive("x"), storage.drive("x"):
        pass


@pytest.fixture
def url(postgres: str) -> str:
    return postgres


@pytest.fixture
def processes(url: str) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.postgres
@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
class TestPostgres:
    def test_a_study_is_the_same_as_in_memory(self, url: str) -> None:
        spec, table = spec_of(name="same"), table_of()
        store = simulate(spec, space_of(spec), table, store=Storage(url).create(spec))
        memory = simulate(spec, space_of(spec), table)
        again = StudyStore(Storage(url), "same")
        assert [(one.candidate, one.state, one.scores) for one in again.trials()] == [
            (one.candidate, one.state, one.scores) for one in memory.trials()
        ]
        assert len(store.trials()) == len(again.trials())

    def test_two_processes_run_two_studies_in_it(self, url: str, processes: list[subprocess.Popen[str]]) -> None:
        processes += [_start(DRIVE, url, name) for name in ("left", "right")]
        assert [one.wait(120) for one in processes] == [0, 0]
        for name in ("left", "right"):
            trials = Storage(url).open(name).trials()
            assert len([one for one in trials if one.state in ("complete", "partial")]) == 20
            assert not [one for one in trials if one.state == "running"]

    def test_one_process_at_a_time_drives_a_study(self, url: str, processes: list[subprocess.Popen[str]]) -> None:
        processes.append(_start(HOLD, url))
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == "held\n"
        storage = Storage(url)
        with (
            pytest.raises(StudyLockedError, match="another process, perhaps on another machine"),
            storage.drive("shared"),
        ):
            pass
        with storage.drive("another"):
            pass
        processes[0].kill()
        processes[0].wait()
        with storage.drive("shared"):
            pass
