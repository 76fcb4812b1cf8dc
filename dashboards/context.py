"""What every route works with, and the settings that the server was started with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from dashboards.reports import Reports
from dashboards.tokens import Token
from orchestrator.home import Home
from orchestrator.queue import Queue
from orchestrator.server import DEFAULT_HOST, is_loopback, read_token
from orchestrator.storage import Storage


@dataclass(frozen=True)
class Settings:
    """How the server was started.

    Attributes:
        home: Where everything is kept.
        token: The token; None where this machine alone may come in.
        hosts: Names under which the server may be called, besides loopback names.
        shared: Whether others than this machine can reach the server.
        data: Folder that submitted studies may read files from, where the server is shared.
        at_once: Most studies that run at the same time.
    """

    home: Home
    token: Token | None = None
    hosts: tuple[str, ...] = ()
    shared: bool = False
    data: Path | None = None
    at_once: int = 1

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read what `orchestrator.server.plan` wrote into the environment. Raises UnsupportedError for a weak token."""
        given = os.environ if environment is None else environment
        secret = read_token(None, given)
        root, data = given.get("PARETUNE_HOME"), given.get("PARETUNE_DATA")
        return cls(
            home=Home(Path(root) if root else None),
            token=Token(secret) if secret else None,
            hosts=tuple(name for name in given.get("PARETUNE_ALLOWED_HOSTS", "").split(",") if name),
            shared=not is_loopback(given.get("PARETUNE_BIND", DEFAULT_HOST)),
            data=Path(data).resolve() if data else None,
            at_once=int(given.get("PARETUNE_STUDIES_AT_ONCE", "1")),
        )


@dataclass(frozen=True)
class Context:
    """What every route works with.

    Attributes:
        settings: How the server was started.
        queue: The queue.
        reports: What is said of studies.
        mlflow_url: Finds the page of a study's run in MLflow.
        closing: Set when the server ends, so that open streams end too.
    """

    settings: Settings
    queue: Queue
    reports: Reports
    mlflow_url: Callable[[str], str | None]
    closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Settings, mlflow_url: Callable[[str], str | None] = lambda _: None) -> Context:
        """Open the storage and the queue of a home."""
        home = settings.home.create()
        storage = Storage(home.storage_url)
        queue = Queue(home, storage)
        return cls(settings, queue, Reports(home, storage, queue), mlflow_url)


def _of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(_of)]
