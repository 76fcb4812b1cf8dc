"""The client of the server's API: what `paretune submit`, `status` and `stop` speak with."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from orchestrator.home import Home
from orchestrator.server import is_loopback, read_token
from orchestrator.spec import StudySpec
from search_space.errors import Problem, SpecError, StudyError, StudyExistsError, StudyNotFoundError

DEFAULT_URL = "http://127.0.0.1:5000"
_API = "/paretune/api/v1"
_TRIES = 3


class Client:
    """Speaks with one server. Use it as a context manager, or close it.

    Args:
        url: Where the server is; `PARETUNE_URL` or `http://127.0.0.1:5000` when None.
        token: Its token; from `PARETUNE_TOKEN` or `PARETUNE_TOKEN_FILE` when None.
        environment: Where the defaults are read from; the process's own when None.
        transport: Replaces the network, in tests.

    Raises:
        StudyError: The address is not one.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout: float = 30.0,
    ) -> None:
        outside = os.environ if environment is None else environment
        self.url = _checked(url or outside.get("PARETUNE_URL") or DEFAULT_URL)
        secret = token or read_token(None, outside)
        self._http = httpx.Client(
            base_url=self.url + _API,
            headers={"Authorization": f"Bearer {secret}"} if secret else {},
            timeout=timeout,
            transport=transport,
            follow_redirects=False,
            trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, spec: StudySpec, key: str | None = None) -> dict[str, Any]:
        """Submit a study and return how it stands. Sent again with the same key where no answer came back.

        Raises:
            SpecError: The server found problems in it.
            StudyExistsError: One of this name exists with another spec, or is running with other budgets.
            StudyError: The server cannot be reached, or refuses.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        for tried in range(1, _TRIES + 1):
            try:
                return self._ask("POST", "/studies", json=spec.to_json(), headers=headers)
            except _NoAnswerError:
                if tried == _TRIES:
                    raise
        raise AssertionError("unreachable")

    def studies(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return the newest studies."""
        found: list[dict[str, Any]] = self._ask("GET", "/studies", params={"limit": limit})["studies"]
        return found

    def study(self, name: str) -> dict[str, Any]:
        """Return how a study stands. Raises StudyNotFoundError."""
        return self._ask("GET", _path(name))

    def stop(self, name: str) -> dict[str, Any]:
        """Ask a study to stop, and return how it stands. Raises StudyNotFoundError."""
        return self._ask("POST", _path(name, "stop"))

    def resume(self, name: str) -> dict[str, Any]:
        """Queue a study again, and return how it stands. Raises StudyNotFoundError."""
        return self._ask("POST", _path(name, "resume"))

    def front(self, name: str) -> dict[str, Any]:
        """Return the front of a study as it is now. Raises StudyNotFoundError."""
        return self._ask("GET", _path(name, "front"))

    def page(self, name: str) -> str:
        """Return the address of a study's page."""
        return f"{self.url}/paretune/studies/{quote(name, safe='')}"

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.ConnectError:
            raise _NoAnswerError(f"no server answers at {self.url}; start one with: paretune serve") from None
        except httpx.TransportError as error:
            raise _NoAnswerError(f"the server at {self.url} does not answer: {type(error).__name__}") from None
        if answer.is_success:
            return self._read(answer)
        raise self._error(answer)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            data = answer.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise StudyError(f"what answers at {self.url} is no Paretune server; its address is like {DEFAULT_URL}")
        return data

    def _error(self, answer: httpx.Response) -> StudyError | SpecError:
        """Return the error that an answer stands for."""
        if answer.status_code == 401:
            return StudyError(f"the server at {self.url} wants its token: set PARETUNE_TOKEN")
        try:
            error = answer.json()["error"]
            message = str(error["message"])
            problems = [Problem(str(one["path"]), str(one["message"])) for one in error["problems"]]
        except (ValueError, KeyError, TypeError):
            return StudyError(f"{self.url} answers {answer.status_code}, and not as a Paretune server does")
        if problems:
            return SpecError(problems, "study")
        kinds: dict[int, type[StudyError]] = {404: StudyNotFoundError, 409: StudyExistsError}
        return kinds.get(answer.status_code, StudyError)(message)


class _NoAnswerError(StudyError):
    """Nothing came back: whether the server did what was asked is not known."""


def _path(name: str, what: str = "") -> str:
    Home().study(name)
    path = f"/studies/{quote(name, safe='')}"
    return f"{path}/{what}" if what else path


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
        raise StudyError(f"{url[:200]!r} is not the address of a server; expected something like {DEFAULT_URL}")
    return url.rstrip("/").removesuffix("/paretune")
