"""What `paretune serve` starts: MLflow's own server with our app in it, in an environment that is safe.

Our app guards every request of that server, MLflow's too (see `dashboards.gate`); what is decided before it starts is
decided here: who can reach it, which token opens it, where it keeps things, and what of MLflow stays closed.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.home import Home
from orchestrator.redaction import redact
from search_space.errors import UnsupportedError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 5000
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 24
_FEWEST_CHARACTERS = 8
_HOW_TO_MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
_CLOSED = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_WORDS = {
    "studies": "studies",
    "mlflow": "MLflow",
    "api": "REST API",
    "api_docs": "its description",
    "home": "home",
    "storage": "storage",
    "mlflow_database": "MLflow's database",
    "artifacts": "artifacts",
}
_LEFT_OUT = (
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
    "MLFLOW_STATIC_PREFIX",
    "MLFLOW_GUNICORN_OPTS",
    "MLFLOW_UVICORN_OPTS",
    "MLFLOW_ARTIFACTS_ONLY",
    "MLFLOW_ENABLE_WORKSPACES",
    "MLFLOW_RUN_ID",
    "PARETUNE_TOKEN_FILE",
)


@dataclass(frozen=True)
class ServerPlan:
    """How the server is started.

    Attributes:
        command: What is executed.
        environment: Its whole environment.
        places: What is where, by name.
        needs_token: Whether every request must bring the token.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    places: Mapping[str, str]
    needs_token: bool

    @property
    def text(self) -> str:
        """What is where, for people."""
        opens = "needs the token" if self.needs_token else "open to this machine alone, without a token"
        lines = {_WORDS[name]: value for name, value in self.places.items()} | {"access": opens}
        body = "\n".join(f"  {name:<18} {value}" for name, value in lines.items())
        return f"Paretune\n{body}\nCtrl-C ends the server; studies that run go on, and are found again when it starts."

    def to_json(self) -> dict[str, object]:
        """Return what is where, for programs."""
        return {**self.places, "needs_token": self.needs_token}


def plan(
    home: Home,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    token_file: Path | None = None,
    allowed_hosts: Sequence[str] = (),
    data: Path | None = None,
    at_once: int = 1,
    environment: Mapping[str, str] | None = None,
) -> ServerPlan:
    """Decide how the server is started.

    Args:
        home: Where everything is kept.
        host: Address to listen on.
        port: Port to listen on.
        token_file: File that holds the token; `PARETUNE_TOKEN` when None.
        allowed_hosts: Further names under which browsers and clients may call the server.
        data: Folder that submitted studies may read files from, on a server that others can reach.
        at_once: Most studies that run at the same time.
        environment: What to start from; the process's own when None.

    Raises:
        UnsupportedError: The server would be open to others, the token is too weak, or MLflow runs elsewhere.
    """
    outside = os.environ if environment is None else environment
    token = read_token(token_file, outside)
    if token is None and not is_loopback(host):
        raise UnsupportedError(
            f"{host} can be reached by others, so a token is needed: set PARETUNE_TOKEN, or give --token-file FILE. "
            f"Make one with: {_HOW_TO_MAKE_ONE}"
        )
    _check_database(home.tracking_uri)
    names = _names(host, allowed_hosts)
    ours = {
        "PARETUNE_HOME": str(home.root),
        "PARETUNE_BIND": host,
        "PARETUNE_ALLOWED_HOSTS": ",".join(names),
        "PARETUNE_STUDIES_AT_ONCE": str(at_once),
        "MLFLOW_BACKEND_STORE_URI": home.tracking_uri,
        "MLFLOW_ARTIFACTS_DESTINATION": home.artifacts.as_uri(),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(_patterns(names, host)),
        **({"PARETUNE_TOKEN": token} if token else {}),
        **({"PARETUNE_DATA": str(data.resolve())} if data else {}),
    }
    kept = {key: value for key, value in outside.items() if key not in _LEFT_OUT}
    return ServerPlan(_command(host, port), kept | ours | _CLOSED, _places(home, host, port), token is not None)


def execute(ready: ServerPlan) -> None:
    """Become the server: this process is replaced and does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(ready.command[0], list(ready.command), dict(ready.environment))  # noqa: S606  (no shell is wanted)


def read_token(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the token from a file, from `PARETUNE_TOKEN_FILE` or from `PARETUNE_TOKEN`; None where none is set.

    Raises:
        UnsupportedError: The file cannot be read, others can read it, or the token is too weak.
    """
    named = environment.get("PARETUNE_TOKEN_FILE")
    source = path or (Path(named) if named else None)
    token = _read_private(source) if source else environment.get("PARETUNE_TOKEN", "").strip()
    if not token and source is None:
        return None
    check_token(token)
    return token


def check_token(token: str) -> None:
    """Refuse a token that could be guessed, or that no HTTP header can carry. Raises UnsupportedError."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UnsupportedError(f"the token must be printable ASCII without spaces; make one with: {_HOW_TO_MAKE_ONE}")
    if len(token) < SHORTEST_TOKEN or len(set(token)) < _FEWEST_CHARACTERS:
        raise UnsupportedError(
            f"the token is too weak: at least {SHORTEST_TOKEN} characters, {_FEWEST_CHARACTERS} of them different; "
            f"make one with: {_HOW_TO_MAKE_ONE}"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read_private(path: Path) -> str:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            fix = f"chmod 600 {shlex.quote(str(path))}"
            raise UnsupportedError(f"the token file can be read by others; run: {fix}")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedError(f"the token file cannot be read: {error}") from None


def _check_database(uri: str) -> None:
    if uri.split(":", 1)[0] in ("http", "https", "databricks", "databricks-uc", "uc"):
        raise UnsupportedError(
            f"MLFLOW_TRACKING_URI is {redact(uri)}: MLflow runs elsewhere, but `paretune serve` is an MLflow server "
            "itself and needs a database. Unset it, or set it to a database such as sqlite:////folder/mlflow.db"
        )


def _names(host: str, further: Sequence[str]) -> tuple[str, ...]:
    """Return the names under which the server may be called."""
    own: tuple[str, ...] = () if is_loopback(host) else (host, socket.gethostname(), socket.getfqdn())
    wildcards = ("0.0.0.0", "::")  # noqa: S104  (left out, not listened on)
    return tuple(dict.fromkeys(name.lower() for name in (*LOOPBACK_NAMES, *own, *further) if name not in wildcards))


def _patterns(names: Sequence[str], host: str) -> list[str]:
    """Return the names as MLflow's own check of the Host header wants them; ours, which comes first, is exact."""
    bracketed = [f"[[]{name}]" if ":" in name else name for name in names]
    private = [] if is_loopback(host) else ["192.168.*", "10.*", *(f"172.{second}.*" for second in range(16, 32))]
    return [*(name.replace("[[]", "[") for name in bracketed), *(f"{name}:*" for name in bracketed), *private]


def _command(host: str, port: int) -> tuple[str, ...]:
    options = ("--app-name", "paretune", "--host", host, "--port", str(port), "--workers", "1")
    return (sys.executable, "-m", "mlflow", "server", *options, "--uvicorn-opts", "--timeout-graceful-shutdown 3")


def _places(home: Home, host: str, port: int) -> dict[str, str]:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    return {
        "studies": f"{url}/paretune/",
        "mlflow": f"{url}/",
        "api": f"{url}/paretune/api/v1",
        "api_docs": f"{url}/paretune/api/v1/docs",
        "home": str(home.root),
        "storage": redact(home.storage_url),
        "mlflow_database": redact(home.tracking_uri),
        "artifacts": str(home.artifacts),
    }
