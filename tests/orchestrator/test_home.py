"""Where things are kept: a lock across processes, files that are whole or not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.home import Home
from search_space.errors import StudyLockedError, StudyNotFoundError
from search_space.files import atomic_write

DRIVER = """
import sys
from pathlib import Path
from orchestrator.home import Home
with Home(Path(sys.argv[1])).drive("demo"):
    print("driving", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("PARETUNE_HOME", "PARETUNE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path / "home").create()


@pytest.fixture
def driver(home: Home):
    """Another process that drives the study `demo`."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "driving\n"
    yield process
    process.kill()
    process.communicate()


class TestLock:
    def test_one_process_drives_a_study(self, home: Home, driver: subprocess.Popen[str]) -> None:
        assert home.is_driven("demo")
        with pytest.raises(StudyLockedError, match="study 'demo' is being run by another process"), home.drive("demo"):
            pass

    def test_another_study_is_free(self, home: Home, driver: subprocess.Popen[str]) -> None:
        with home.drive("other"):
            assert home.is_driven("other")

    def test_a_killed_driver_leaves_no_lock(self, home: Home, driver: subprocess.Popen[str]) -> None:
        driver.kill()
        driver.wait()
        assert not home.is_driven("demo")
        with home.drive("demo"):
            pass

    def test_the_lock_ends_with_an_error(self, home: Home) -> None:
        with pytest.raises(ZeroDivisionError), home.drive("demo"):
            raise ZeroDivisionError
        assert not home.is_driven("demo")

    def test_a_study_that_was_never_run_is_not_driven(self, home: Home) -> None:
        assert not home.is_driven("demo")
        assert not home.study("demo").exists()


class TestPlaces:
    def test_only_its_owner_reads_it(self, home: Home) -> None:
        assert home.root.stat().st_mode & 0o777 == 0o700

    def test_everything_is_below_it(self, home: Home) -> None:
        assert home.storage_url == f"sqlite:///{home.root}/paretune.db"
        assert home.tracking_uri == f"sqlite:///{home.root}/mlflow.db"
        assert home.study("demo") == home.root / "studies" / "demo"

    def test_the_environment_decides(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARETUNE_HOME", str(tmp_path / "mine"))
        monkeypatch.setenv("PARETUNE_STORAGE", "postgresql://db/paretune")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
        home = Home()
        assert home.root == tmp_path / "mine"
        assert home.storage_url == "postgresql://db/paretune"
        assert home.tracking_uri == "http://tracking:5000"

    @pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/etc", "Demo", "a b", "x" * 65, "demo\n", "démo"])
    def test_a_name_cannot_leave_it(self, home: Home, name: str) -> None:
        with pytest.raises(StudyNotFoundError, match="is not a study's name"):
            home.study(name)


class TestAtomicWrite:
    def test_it_writes_text_and_bytes_and_makes_folders(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / "a" / "b.txt", "text")
        atomic_write(tmp_path / "a" / "b.bin", b"bytes")
        assert (tmp_path / "a" / "b.txt").read_text() == "text"
        assert (tmp_path / "a" / "b.bin").read_bytes() == b"bytes"
        assert (tmp_path / "a" / "b.txt").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("call", ["replace", "fsync"])
    @pytest.mark.parametrize("error", [OSError("disk is full"), KeyboardInterrupt()])
    def test_a_crash_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
    ) -> None:
        path = tmp_path / "front.json"
        atomic_write(path, "old")

        def crash(*_: object) -> None:
            raise error

        monkeypatch.setattr("os.replace", crash) if call == "replace" else monkeypatch.setattr("os.fsync", crash)
        monkeypatch.setattr(Path, "replace", crash) if call == "replace" else None
        with pytest.raises(type(error)):
            atomic_write(path, "new")
        assert path.read_text() == "old"
        assert [one.name for one in tmp_path.iterdir()] == ["front.json"]

    def test_a_reader_never_sees_a_part(self, tmp_path: Path) -> None:
        path = tmp_path / "big"
        atomic_write(path, "a" * 10**6)
        with path.open() as reader:
            atomic_write(path, "b" * 10**6)
            assert set(reader.read()) == {"a"}
        assert set(path.read_text()) == {"b"}
