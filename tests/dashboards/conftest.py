"""Servers of our own app on a free port, each with a home of its own: real sockets, real headers, no MLflow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dashboards.context import Context, Settings
from dashboards.site import server
from dashboards.tokens import Token
from orchestrator.home import Home
from orchestrator.storage import Storage
from tests.dashboards.stored import empty_home

SECRET = "a-token-of-the-tests-0123456789"


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    context: Context
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> Storage:
        return self.context.queue.storage

    def client(self, token: str | None = None, headers: dict[str, str] | None = None, **more: Any) -> httpx.Client:
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=20, **more)

    def raw(self, request: bytes) -> tuple[int, str]:
        """Send bytes as they are, and return the status and the whole answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return int(answer.split(b" ", 2)[1]), answer.decode("latin-1")


class StandIn(Starlette):
    """Stands where MLflow's app does: answers everything."""

    def __init__(self) -> None:
        answer = lambda _: PlainTextResponse("mlflow was here")  # noqa: E731
        super().__init__(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Start servers, and end them after the module."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(token: str | None = None, home: Path | None = None, **settings: Any) -> Served:
        folder = home or tmp_path_factory.mktemp("home")
        own = Home(folder) if home else empty_home(folder)
        context = Context.open(Settings(own, Token(token) if token else None, **settings))
        config = uvicorn.Config(
            server(context, StandIn()), port=0, log_level="critical", lifespan="on", timeout_graceful_shutdown=1
        )
        one = uvicorn.Server(config)
        thread = threading.Thread(target=one.run, daemon=True)
        thread.start()
        while not one.started:
            time.sleep(0.01)
        running.append((one, thread))
        return Served(context, one.servers[0].sockets[0].getsockname()[1])

    yield start
    for one, _ in running:
        one.should_exit = True
    for _, thread in running:
        thread.join(timeout=10)
