"""The gate: every request of the server passes it, those to MLflow too. What it does not open stays closed.

In this order:

1. **Host**: a name that this server is called by. Against DNS rebinding, where a foreign page makes a name of its own
   point here.
2. **Origin**: a browser's request from another origin is refused, whatever its method; MLflow alone would let every
   page on this machine read its answers. Requests that change something must also not be `cross-site` by their
   `Sec-Fetch-Site`. Programs send neither header.
3. **Token**: `Authorization: Bearer TOKEN`, or the session cookie. Without a token set, a request must have come to a
   loopback address, under a loopback name, and through no proxy. Open are the login page and our own static files.
4. **Closed**: what MLflow would run on this machine for whoever asks, its jobs and its assistant with a shell, is not
   there.
5. **Size**: bodies to our own pages and API are bounded.

What is refused never reaches a handler.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards.tokens import Token
from orchestrator.server import LOOPBACK_NAMES, is_loopback

PREFIX = "/paretune"
LOGIN = f"{PREFIX}/login"
STATIC = f"{PREFIX}/static/"
MOST_BODY_BYTES = 256 * 1024
_READING = ("GET", "HEAD", "OPTIONS")
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_CLOSED = ("/ajax-api/3.0/jobs", "/ajax-api/3.0/mlflow/assistant")
_OURS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_CLOSED_CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Refused(Exception):  # noqa: N818  (it is an answer, not a failure)
    """The gate's answer to a request that may not pass."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Gate:
    """ASGI middleware around the whole server.

    Args:
        app: What is guarded.
        token: The token; None where this machine alone may come in.
        hosts: Names under which the server may be called; loopback names always.
    """

    def __init__(self, app: ASGIApp, token: Token | None, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.token = token
        self.hosts = frozenset((*LOOPBACK_NAMES, *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guard(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        ours = scope["path"] == PREFIX or scope["path"].startswith(f"{PREFIX}/")
        try:
            self._check_host(headers, scope)
            _check_origin(headers, scope)
            self._check_token(headers, scope)
            if scope["path"].startswith(_CLOSED):
                raise Refused(404, "this part of MLflow is closed in this server")
            if ours:
                receive = _bounded(headers, receive)
            await self.app(scope, receive, _with_our_headers(send) if ours else send)
        except Refused as refused:
            await self._answer(refused, headers, scope, send)

    def _check_host(self, headers: Headers, scope: Scope) -> None:
        name = _host_name(headers.get("host", ""))
        arrived = (scope.get("server") or ("",))[0]
        if name not in self.hosts and not (self.token and name and name == str(arrived).lower()):
            raise Refused(403, "the Host header names another server; start this one with --allowed-host NAME")

    def _check_token(self, headers: Headers, scope: Scope) -> None:
        if self.token is None:
            _check_local(headers, scope)
        elif not (_is_open(scope["path"]) or self._has_key(headers)):
            raise Refused(401, "a token is needed: send it as 'Authorization: Bearer TOKEN', or log in on the page")

    def _has_key(self, headers: Headers) -> bool:
        assert self.token is not None
        return self.token.opens(headers.get("authorization", ""), headers.get("cookie", ""))

    async def _answer(self, refused: Refused, headers: Headers, scope: Scope, send: Send) -> None:
        """Answer with JSON, or lead a browser to the login page."""
        fields = {**_OURS, "Content-Security-Policy": _CLOSED_CSP, "Cache-Control": "no-store"}
        body, status = b"", refused.status
        if status == 401 and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            status = 303
            fields["Location"] = f"{LOGIN}?next={quote(_target(scope), safe='')}"
        else:
            body = json.dumps({"error": {"message": str(refused), "problems": []}}).encode()
            fields |= {"Content-Type": "application/json"}
            fields |= {"WWW-Authenticate": 'Bearer realm="paretune"'} if status == 401 else {}
            fields |= {"Connection": "close"} if status == 413 else {}
        fields["Content-Length"] = str(len(body))
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def _check_origin(headers: Headers, scope: Scope) -> None:
    """Refuse what a browser sends on behalf of a page from elsewhere."""
    origin = headers.get("origin")
    if origin is not None and _address(origin) != headers.get("host", "").lower():
        raise Refused(403, "this request comes from a page of another origin")
    if scope["method"] not in _READING and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Refused(403, "this request comes from a page of another site")


def _check_local(headers: Headers, scope: Scope) -> None:
    arrived = (scope.get("server") or ("",))[0]
    local = is_loopback(str(arrived)) and _host_name(headers.get("host", "")) in LOOPBACK_NAMES
    if not local or any(name in headers for name in _PROXY_HEADERS):
        raise Refused(403, "without a token only this machine is answered, and not through a proxy; set PARETUNE_TOKEN")


def _is_open(path: str) -> bool:
    return path == LOGIN or path.startswith(STATIC)


def _target(scope: Scope) -> str:
    """Return the path and query that were asked for."""
    query = scope["query_string"].decode("latin-1")
    path = quote(scope["path"])
    return f"{path}?{query}" if query else path


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets; empty when it is not one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _address(origin: str) -> str:
    """Return name and port of an origin; empty for `null` and for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _bounded(headers: Headers, receive: Receive) -> Receive:
    """Refuse a body that is announced as, or turns out, too large."""
    announced = headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > MOST_BODY_BYTES:
        raise Refused(413, f"the body is larger than {MOST_BODY_BYTES // 1024} KiB")
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BODY_BYTES:
            raise Refused(413, f"the body is larger than {MOST_BODY_BYTES // 1024} KiB")
        return message

    return bounded


def _with_our_headers(send: Send) -> Send:
    """Add our security headers to what has none of its own."""

    async def extended(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in {**_OURS, "Content-Security-Policy": _CLOSED_CSP}.items():
                headers.setdefault(name, value)
        await send(message)

    return extended
