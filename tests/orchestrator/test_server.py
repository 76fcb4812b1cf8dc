"""How the server is started: what is refused, each with its fix, and what its environment holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards.context import Settings
from orchestrator.home import Home
from orchestrator.server import ServerPlan, is_loopback, plan
from search_space.errors import UnsupportedError

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def _plan(home: Home, environment: dict[str, str] | None = None, **more: object) -> ServerPlan:
    return plan(home, environment=environment or {}, **more)  # type: ignore[arg-type]


class TestRefusals:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "studies.example", "", "localhost.evil.example"])
    def test_others_need_a_token(self, home: Home, host: str) -> None:
        with pytest.raises(UnsupportedError, match="PARETUNE_TOKEN, or give --token-file"):
            _plan(home, host=host)
        assert _plan(home, {"PARETUNE_TOKEN": TOKEN}, host=host).environment["PARETUNE_TOKEN"] == TOKEN

    @pytest.mark.parametrize(
        "token",
        ["short", "a" * 64, "ab" * 20, "x" * 23 + "y", "with a space in it 0123456789", "tökentökentökentökentökent"],
    )
    def test_weak_tokens_are_refused_on_loopback_too(self, home: Home, token: str) -> None:
        with pytest.raises(UnsupportedError, match="token_urlsafe"):
            _plan(home, {"PARETUNE_TOKEN": token})
        with pytest.raises(UnsupportedError):
            Settings.read({"PARETUNE_TOKEN": token})

    def test_a_token_file_must_be_private(self, home: Home, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text(TOKEN + "\n")
        path.chmod(0o644)
        with pytest.raises(UnsupportedError, match="chmod 600"):
            _plan(home, token_file=path)
        path.chmod(0o600)
        assert _plan(home, token_file=path, host="0.0.0.0").environment["PARETUNE_TOKEN"] == TOKEN
        assert _plan(home, {"PARETUNE_TOKEN_FILE": str(path)}).environment["PARETUNE_TOKEN"] == TOKEN

    def test_a_token_file_that_is_empty_or_not_there_is_refused(self, home: Home, tmp_path: Path) -> None:
        path = tmp_path / "token"
        with pytest.raises(UnsupportedError, match="cannot be read"):
            _plan(home, token_file=path)
        path.touch(0o600)
        with pytest.raises(UnsupportedError, match="too weak"):
            _plan(home, token_file=path)

    def test_an_mlflow_elsewhere_is_refused_without_its_password(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter22@mlflow.example")
        with pytest.raises(UnsupportedError, match="needs a database") as refused:
            _plan(home)
        assert "hunter22" not in str(refused.value)


class TestEnvironment:
    def test_what_is_dangerous_is_off_whatever_was_set(self, home: Home) -> None:
        outside = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
            "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
            "MLFLOW_UVICORN_OPTS": "--host 0.0.0.0",
            "MLFLOW_RUN_ID": "x",
            "MLFLOW_STATIC_PREFIX": "/x",
        }
        found = _plan(home, outside).environment
        assert found["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert found["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
        assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert not {name for name in outside if outside[name] != "true"} & set(found)
        assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in found

    def test_secrets_stand_in_the_environment_and_not_in_the_command_or_the_text(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter22@db/mlflow")
        ready = _plan(home, {"PARETUNE_TOKEN": TOKEN})
        assert ready.environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:hunter22@db/mlflow"
        shown = " ".join(ready.command) + ready.text
        assert "hunter22" not in shown
        assert TOKEN not in shown

    def test_the_app_reads_what_was_decided(self, home: Home, tmp_path: Path) -> None:
        ready = _plan(
            home, {"PARETUNE_TOKEN": TOKEN}, host="0.0.0.0", allowed_hosts=["A.example"], data=tmp_path, at_once=3
        )
        settings = Settings.read(ready.environment)
        assert settings.home.root == home.root
        assert settings.token is not None
        assert settings.token.is_right(TOKEN)
        assert (settings.shared, settings.data, settings.at_once) == (True, tmp_path.resolve(), 3)
        assert "a.example" in settings.hosts
        assert "0.0.0.0" not in settings.hosts

    def test_alone_it_is_open_and_says_so(self, home: Home) -> None:
        ready = _plan(home)
        settings = Settings.read(ready.environment)
        assert (settings.token, settings.shared) == (None, False)
        assert "open to this machine alone" in ready.text
        assert "http://127.0.0.1:5000/paretune/" in ready.text
        assert ready.command[4:6] == ("--app-name", "paretune")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
