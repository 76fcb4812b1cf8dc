"""The whole server as `paretune serve` starts it: MLflow's own, with our app in it and our gate before both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.home import Home
from orchestrator.server import plan
from orchestrator.storage import Storage
from tests.dashboards.stored import complete, empty_home

TOKEN = "a-token-of-the-tests-0123456789"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    one = empty_home(tmp_path_factory.mktemp("home"))
    complete(Storage(one.storage_url), "first", 8)
    return one


@pytest.fixture(scope="module")
def url(home: Home) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready = plan(home, port=port, environment={**os.environ, "PARETUNE_TOKEN": TOKEN})
    log = (home.root / "server.log").open("wb")
    server = subprocess.Popen(ready.command, env=dict(ready.environment), stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        assert server.poll() is None, (home.root / "server.log").read_text()
        try:
            httpx.get(f"{address}/paretune/login", trust_env=False)
            break
        except httpx.TransportError:
            time.sleep(0.2)
    yield address
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) is not None


@pytest.fixture(scope="module")
def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=60)


def test_mlflow_and_ours_answer_together(client: httpx.Client) -> None:
    assert "MLflow" in client.get("/").text
    assert client.get("/health").text == "OK"
    assert "first" in client.get("/paretune/").text
    assert client.get("/paretune").status_code == 307
    assert client.get("/paretune/api/v1/studies/first").json()["state"] == "complete"
    assert client.get("/paretune/api/v1/studies/first").json()["mlflow_url"] is None


def test_mlflow_can_be_written_to_with_the_token(client: httpx.Client) -> None:
    made = client.post("/api/2.0/mlflow/experiments/create", json={"name": "by-token"})
    assert made.status_code == 200
    found = client.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": made.json()["experiment_id"]}).json()
    assert found["experiment"]["artifact_location"].startswith("mlflow-artifacts:/")


def test_nothing_of_either_is_open_without_the_token(url: str) -> None:
    paths = (
        "/",
        "/health",
        "/version",
        "/static-files/index.html",
        "/api/2.0/mlflow/experiments/search",
        "/paretune/",
        "/paretune/api/v1/studies",
        "/graphql",
        "/ajax-api/3.0/mlflow/ui-telemetry",
        "/metrics",
    )
    with httpx.Client(base_url=url, trust_env=False) as nobody:
        assert {nobody.get(path).status_code for path in paths} == {401}
        assert {nobody.post(path).status_code for path in paths} == {401}


def test_what_mlflow_would_run_is_closed(client: httpx.Client) -> None:
    assert client.get("/ajax-api/3.0/mlflow/assistant/config").status_code == 404
    assert client.post("/ajax-api/3.0/jobs/search", json={}).status_code == 404
    assert client.get("/ajax-api/3.0/mlflow/ui-telemetry").json()["disable_ui_telemetry"] is True


def test_other_names_and_origins_are_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/api/2.0/mlflow/runs/create", headers={"Origin": "http://localhost:1"}).status_code == 403


def test_the_token_is_in_no_log_and_no_command(home: Home, client: httpx.Client) -> None:
    client.get("/paretune/")
    assert TOKEN not in (home.root / "server.log").read_text()
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert TOKEN.encode() not in each.read_bytes()
        except OSError:
            continue
