"""The client: what it sends, and what it says when something is wrong. (Against a real server: tests/dashboards.)"""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from orchestrator.client import Client
from search_space.errors import SpecError, StudyError, StudyExistsError, StudyNotFoundError
from tests.dashboards.stored import spec_of

TOKEN = "a-token-of-the-tests-0123456789"
Answer = Callable[[httpx.Request], httpx.Response]


def _client(answer: Answer, **more: str) -> Client:
    return Client(environment=more, transport=httpx.MockTransport(answer))


def _error(status: int, message: str = "no", problems: list[dict[str, str]] | None = None) -> Answer:
    return lambda _: httpx.Response(status, json={"error": {"message": message, "problems": problems or []}})


class TestSending:
    def test_it_finds_the_server_and_the_token_in_the_environment(self) -> None:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json={"studies": [{"name": "x"}]})

        with _client(answer, PARETUNE_URL="http://host:81/paretune/", PARETUNE_TOKEN=TOKEN) as client:
            assert client.studies() == [{"name": "x"}]
            assert client.page("x") == "http://host:81/paretune/studies/x"
        assert str(seen[0].url) == "http://host:81/paretune/api/v1/studies?limit=50"
        assert seen[0].headers["authorization"] == f"Bearer {TOKEN}"

    def test_a_submission_is_sent_again_under_one_key(self) -> None:
        keys: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            keys.append(request.headers["idempotency-key"])
            if len(keys) < 3:
                raise httpx.ReadTimeout("late", request=request)
            return httpx.Response(201, json={"name": "first"})

        assert _client(answer).submit(spec_of("first")) == {"name": "first"}
        assert len(set(keys)) == 1

    def test_a_submission_that_was_refused_is_not_sent_again(self) -> None:
        calls: list[int] = []

        def answer(request: httpx.Request) -> httpx.Response:
            calls.append(1)
            return _error(409, "taken")(request)

        with pytest.raises(StudyExistsError, match="taken"):
            _client(answer).submit(spec_of("first"))
        assert len(calls) == 1

    @pytest.mark.parametrize("name", ["..", "a/b", "A", "", "a?b", "a#b", "x" * 65])
    def test_names_that_no_study_has_are_not_sent(self, name: str) -> None:
        client = _client(lambda _: pytest.fail("it was sent"))
        for call in (client.study, client.stop, client.resume, client.front):
            with pytest.raises(StudyNotFoundError):
                call(name)

    @pytest.mark.parametrize(
        "url", ["", "localhost:5000", "ftp://x", "http://", "http://me:pw@x", "http://x?y", "http://[", "http://x:y"]
    )
    def test_addresses_that_are_none_are_refused(self, url: str) -> None:
        with pytest.raises(StudyError, match="is not the address of a server"):
            Client(url or "x", environment={})

    def test_redirections_are_not_followed(self) -> None:
        client = _client(lambda _: httpx.Response(302, headers={"Location": "http://evil.example/"}))
        with pytest.raises(StudyError, match="answers 302"):
            client.studies()


class TestErrors:
    def test_no_server_is_said_with_what_to_do(self) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        with pytest.raises(StudyError, match="start one with: paretune serve"):
            _client(answer).studies()

    def test_a_missing_token_is_said(self) -> None:
        with pytest.raises(StudyError, match="set PARETUNE_TOKEN"):
            _client(_error(401)).studies()

    def test_what_is_not_there(self) -> None:
        with pytest.raises(StudyNotFoundError, match="no"):
            _client(_error(404)).study("x")

    def test_problems_are_all_kept(self) -> None:
        problems = [{"path": "name", "message": "bad"}, {"path": "", "message": "worse"}]
        with pytest.raises(SpecError) as refused:
            _client(_error(422, "not valid", problems)).submit(spec_of("first"))
        assert [(one.path, one.message) for one in refused.value.problems] == [("name", "bad"), ("", "worse")]

    @pytest.mark.parametrize(
        "answer",
        [
            httpx.Response(200, text="<html>"),
            httpx.Response(200, json=[1]),
            httpx.Response(502, text="bad gateway"),
            httpx.Response(500, json={"error": "x"}),
            httpx.Response(400, json=[1]),
            httpx.Response(418, json={"error": {"message": 1}}),
        ],
    )
    def test_other_servers_are_recognised(self, answer: httpx.Response) -> None:
        with pytest.raises(StudyError, match="Paretune server"):
            _client(lambda _: answer).studies()
