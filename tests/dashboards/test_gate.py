"""The gate: every route, ours and MLflow's, with no, wrong and right keys; other names, other origins, large bodies."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.routing import Route

from dashboards.context import Context
from dashboards.gate import MOST_BODY_BYTES, STATIC, Gate
from dashboards.site import our_app
from dashboards.tokens import COOKIE
from tests.dashboards.conftest import SECRET, Served
from tests.dashboards.stored import complete

OPEN = {("GET", "/paretune/login"), ("POST", "/paretune/login"), ("GET", "/paretune/static/{name}")}
MLFLOW = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/version"),
    ("GET", "/static-files/index.html"),
    ("GET", "//paretune/login"),
    ("GET", "/api/2.0/mlflow/experiments/search"),
    ("POST", "/api/2.0/mlflow/runs/create"),
    ("GET", "/get-artifact"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/x"),
    ("POST", "/graphql"),
    ("GET", "/paretune2"),
    ("GET", "/PARETUNE/login"),
    ("POST", "/gateway/x/invocations"),
    ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/x"),
]


@pytest.fixture(scope="module")
def closed(serve: Callable[..., Served]) -> Served:
    one = serve(SECRET)
    complete(one.storage, "first", 6)
    return one


@pytest.fixture(scope="module")
def local(serve: Callable[..., Served]) -> Served:
    one = serve()
    complete(one.storage, "first", 6)
    return one


def _routes(context: Context) -> Iterator[tuple[str, str]]:
    pending = list(our_app(context).routes)
    while pending:
        one = pending.pop()
        inner = getattr(one, "original_router", None)
        if inner is not None:
            pending.extend(inner.routes)
        elif isinstance(one, Route):
            for method in (one.methods or set()) - {"HEAD"}:
                yield method, f"/paretune{one.path}"


def test_the_routes_are_all_found(local: Served) -> None:
    found = set(_routes(local.context))
    assert {("POST", "/paretune/api/v1/studies"), ("GET", "/paretune/"), *OPEN} <= found
    assert len(found) >= 19


class TestToken:
    def test_every_route_of_ours_is_closed_but_the_login(self, closed: Served) -> None:
        with closed.client() as nobody, closed.client("wrong-" + SECRET) as stranger:
            for method, path in _routes(closed.context):
                target = path.replace("{name}", "paretune.css" if "static" in path else "first")
                for client in (nobody, stranger):
                    status = client.request(method, target).status_code
                    assert (status == 401) == ((method, path) not in OPEN), path

    @pytest.mark.parametrize(("method", "path"), MLFLOW)
    def test_mlflow_is_closed_too(self, closed: Served, method: str, path: str) -> None:
        for token, status in ((None, 401), ("wrong", 401), (SECRET, 200)):
            connection = http.client.HTTPConnection("127.0.0.1", closed.port)
            connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
            assert connection.getresponse().status == status
            connection.close()

    def test_every_route_of_ours_opens_to_the_token(self, closed: Served) -> None:
        with closed.client(SECRET) as client:
            for method, path in _routes(closed.context):
                if "events" in path:
                    continue
                target = path.replace("{name}", "paretune.css" if "static" in path else "first")
                assert client.request(method, target).status_code not in (401, 403, 404, 500), path

    @pytest.mark.parametrize("path", ["/ajax-api/3.0/jobs/x", "/ajax-api/3.0/mlflow/assistant/message"])
    def test_what_mlflow_would_run_for_anybody_is_closed(self, closed: Served, path: str) -> None:
        with closed.client(SECRET) as client:
            assert client.post(path).status_code == 404
            assert client.get(path).status_code == 404

    def test_a_browser_is_led_to_the_login_and_back(self, closed: Served) -> None:
        with closed.client(headers={"Accept": "text/html"}) as browser:
            answer = browser.get("/paretune/studies/first?x=1")
            assert answer.status_code == 303
            assert answer.headers["location"] == "/paretune/login?next=%2Fparetune%2Fstudies%2Ffirst%3Fx%3D1"
            assert browser.get("/").headers["location"] == "/paretune/login?next=%2F"
            form = {"token": SECRET, "next": "/paretune/studies/first?x=1"}
            entered = browser.post("/paretune/login", data=form)
            assert (entered.status_code, entered.headers["location"]) == (303, "/paretune/studies/first?x=1")
            assert "HttpOnly; SameSite=Strict" in entered.headers["set-cookie"]
            assert browser.get("/paretune/studies/first").status_code == 200
            assert browser.get("/api/2.0/mlflow/experiments/search").text == "mlflow was here"
            assert browser.post("/paretune/logout").status_code == 303
            assert browser.get("/paretune/").status_code == 303

    def test_a_wrong_token_at_the_login_gets_nothing(self, closed: Served) -> None:
        with closed.client() as browser:
            answer = browser.post("/paretune/login", data={"token": "wrong", "next": "/"})
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
            assert "not the token" in answer.text

    @pytest.mark.parametrize(
        "target",
        [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "",
            "/a\r\nX: y",
            "\\\\e",
            "/\t/e",
        ],
    )
    def test_the_login_leads_nowhere_else(self, closed: Served, target: str) -> None:
        with closed.client() as browser:
            answer = browser.post("/paretune/login", data={"token": SECRET, "next": target})
            assert answer.headers["location"] == "/paretune/"

    def test_a_session_that_was_forged_does_not_open(self, closed: Served) -> None:
        with closed.client(headers={"Cookie": f"{COOKIE}=9999999999.{'0' * 64}"}) as browser:
            assert browser.get("/paretune/api/v1/studies").status_code == 401

    def test_refusals_say_how(self, closed: Served) -> None:
        with closed.client() as client:
            answer = client.get("/paretune/api/v1/studies")
        assert answer.headers["www-authenticate"] == 'Bearer realm="paretune"'
        assert "Authorization: Bearer" in answer.json()["error"]["message"]

    def test_other_protocols_are_refused(self) -> None:
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        gate = Gate(lambda *_: pytest.fail("it passed"), None)  # type: ignore[arg-type,return-value]
        asyncio.run(gate({"type": "websocket", "path": "/"}, lambda: None, send))  # type: ignore[arg-type,return-value]
        assert said == [{"type": "websocket.close", "code": 1008}]


class TestLoopback:
    def test_this_machine_comes_in_without_a_token(self, local: Served) -> None:
        with local.client() as client:
            assert client.get("/paretune/").status_code == 200
            assert client.get("/").text == "mlflow was here"

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1", "0.0.0.0"]
    )
    @pytest.mark.parametrize("path", ["/paretune/api/v1/studies", "/", "/paretune/login"])
    def test_another_name_is_refused(self, local: Served, closed: Served, host: str, path: str) -> None:
        for one, key in ((local, ""), (closed, f"Authorization: Bearer {SECRET}\r\n")):
            status, _ = one.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{key}Connection: close\r\n\r\n".encode())
            assert status in (400, 403)

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
    def test_loopback_names_are_taken(self, local: Served, host: str) -> None:
        request = f"GET /paretune/ HTTP/1.1\r\nHost: {host}:{local.port}\r\nConnection: close\r\n\r\n"
        assert local.raw(request.encode())[0] == 200

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
    def test_a_proxy_does_not_make_others_local(self, local: Served, header: str) -> None:
        with local.client(headers={header: "203.0.113.9"}) as client:
            assert client.get("/paretune/").status_code == 403

    def test_further_names_are_taken_with_a_token_alone(self, serve: Callable[..., Served]) -> None:
        named, bare = serve(SECRET, hosts=("studies.example",)), serve(hosts=("studies.example",))
        with named.client(SECRET, follow_redirects=False) as client:
            assert client.get("/paretune/", headers={"Host": "studies.example"}).status_code == 200
        with bare.client() as client:
            assert client.get("/paretune/", headers={"Host": "studies.example"}).status_code == 403


class TestOrigin:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"])
    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://localhost:1", "http://[", "http://127.0.0.1"]
    )
    def test_another_origin_is_refused(self, local: Served, method: str, origin: str) -> None:
        with local.client(headers={"Origin": origin}) as client:
            for path in ("/paretune/api/v1/studies", "/api/2.0/mlflow/runs/create"):
                assert client.request(method, path).status_code == 403

    def test_its_own_origin_is_taken(self, local: Served) -> None:
        headers = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
        with local.client(headers=headers) as client:
            assert client.post("/paretune/api/v1/studies/first/stop").status_code == 200
            assert client.post("/api/2.0/mlflow/runs/create").status_code == 200

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_a_form_of_another_site_is_refused_and_a_link_is_not(self, local: Served, site: str) -> None:
        with local.client(headers={"Sec-Fetch-Site": site}) as client:
            assert client.post("/paretune/studies/first/stop").status_code == 403
            assert client.get("/paretune/").status_code == 200

    def test_a_session_is_no_use_to_another_origin(self, closed: Served) -> None:
        assert closed.context.settings.token is not None
        headers = {"Cookie": f"{COOKIE}={closed.context.settings.token.session()}", "Origin": "https://evil.example"}
        with closed.client(headers=headers) as client:
            assert client.post("/paretune/studies/first/stop").status_code == 403


class TestSize:
    def test_a_body_that_is_announced_too_large_is_refused(self, local: Served) -> None:
        with local.client() as client:
            answer = client.post("/paretune/api/v1/studies", content=b"x" * (MOST_BODY_BYTES + 1))
            assert answer.status_code == 413
            assert "256 KiB" in answer.json()["error"]["message"]

    def test_a_body_that_turns_out_too_large_is_refused(self, local: Served) -> None:
        chunks = (b"x" * 65536 for _ in range(8))
        with local.client() as client:
            answer = client.post("/paretune/api/v1/studies", content=chunks, headers={"Content-Type": "text/yaml"})
            assert answer.status_code == 413

    @pytest.mark.parametrize("length", ["-1", "x", "1e9", "99999999999999999999999"])
    def test_lengths_that_are_none_are_refused(self, local: Served, length: str) -> None:
        head = f"POST /paretune/api/v1/studies HTTP/1.1\r\nHost: 127.0.0.1:{local.port}\r\n"
        assert local.raw(f"{head}Content-Length: {length}\r\n\r\n".encode())[0] in (400, 413)

    def test_artifacts_of_mlflow_may_be_large(self, local: Served) -> None:
        with local.client() as client:
            answer = client.put("/api/2.0/mlflow-artifacts/artifacts/x", content=b"x" * (4 * MOST_BODY_BYTES))
            assert answer.status_code == 200


class TestHeaders:
    @pytest.mark.parametrize(
        "path", ["/paretune/", "/paretune/api/v1/studies", f"{STATIC}paretune.css", "/paretune/nothing"]
    )
    def test_ours_are_on_every_answer(self, local: Served, path: str) -> None:
        with local.client() as client:
            headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers

    def test_scripts_run_by_a_nonce_of_one_answer(self, local: Served) -> None:
        with local.client() as client:
            first, second = (client.get("/paretune/studies/first") for _ in range(2))
        policies = {one.headers["content-security-policy"] for one in (first, second)}
        assert len(policies) == 2
        nonce = first.headers["content-security-policy"].partition("script-src 'nonce-")[2].partition("'")[0]
        assert first.text.count("<script") == first.text.count(f'nonce="{nonce}" defer></script>') > 0
        assert "<style" not in first.text
        assert " style=" not in first.text
        assert " onclick=" not in first.text
