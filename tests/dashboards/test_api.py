"""The API: what it answers to what is right, to what is wrong, and to what is hostile."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboards.pages.rendering import EXAMPLE
from orchestrator.study_file import read_text
from tests.dashboards.conftest import Served
from tests.dashboards.stored import (
    add_settled,
    begin,
    candidate,
    complete,
    fill,
    pause_trial,
    set_paused,
    spec_of,
    start_trial,
)

API = "/paretune/api/v1"
YAML = {"Content-Type": "application/yaml"}
NAMES = [
    "..",
    "%2e%2e",
    "%252e%252e",
    "..%2f..%2fetc%2fpasswd",
    "a\\b",
    "%5c..%5c",
    "x%00",
    "x%23y",
    "x%3by",
    "file:%2f%2f%2fetc",
    "C:",
    "%ef%bc%8e%ef%bc%8e",
    "a" * 65,
    "a" * 4000,
    "NAME",
    "a%0ab",
    "a b",
    "(%5cw+%5c.%3f)+!",
    "%f0%9f%98%80",
    "first%2freferences",
    "<script>alert(1)</script>",
    "'%22",
    "{{7*7}}",
    "-",
    "%ff",
]


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    one = serve()
    complete(one.storage, "first", 24)
    return one


@pytest.fixture(scope="module")
def client(served: Served) -> httpx.Client:
    return served.client()


def _text(name: str, **more: Any) -> str:
    return json.dumps(spec_of(name, **more).to_json())


class TestSubmission:
    def test_yaml_and_json_are_taken(self, client: httpx.Client) -> None:
        made = client.post(f"{API}/studies", content=EXAMPLE, headers=YAML)
        assert (made.status_code, made.headers["location"]) == (201, f"{API}/studies/my-first-study")
        assert made.json()["state"] == "queued"
        assert made.json()["spec"] == read_text(EXAMPLE).to_json()
        assert client.post(f"{API}/studies", json=spec_of("by-json").to_json()).status_code == 201

    def test_a_key_makes_it_once(self, client: httpx.Client) -> None:
        headers = {**YAML, "Idempotency-Key": "key-1"}
        codes = [client.post(f"{API}/studies", content=_text("once"), headers=headers).status_code for _ in range(3)]
        assert codes == [201, 200, 200]
        other = client.post(f"{API}/studies", content=_text("twice"), headers=headers)
        assert other.status_code == 409
        assert "idempotency key" in other.json()["error"]["message"]

    def test_a_crowd_with_one_key_makes_it_once(self, served: Served) -> None:
        def submit(_: int) -> int:
            with served.client() as own:
                headers = {**YAML, "Idempotency-Key": "crowd"}
                return own.post(f"{API}/studies", content=_text("crowd"), headers=headers).status_code

        with ThreadPoolExecutor(20) as crowd:
            codes = list(crowd.map(submit, range(60)))
        assert sorted(codes) == [200] * 59 + [201]

    def test_another_spec_under_its_name_is_a_conflict(self, client: httpx.Client) -> None:
        client.post(f"{API}/studies", content=_text("mine"), headers=YAML)
        answer = client.post(f"{API}/studies", content=_text("mine", search={"seed": 3}), headers=YAML)
        assert answer.status_code == 409
        assert "another spec" in answer.json()["error"]["message"]

    def test_every_problem_is_told(self, client: httpx.Client) -> None:
        bad = {
            "name": "Bad",
            "model": "builtin:minilm",
            "task": "builtin:trec",
            "budgets": {"trails": 3},
            "objectives": [],
        }
        answer = client.post(f"{API}/studies", json=bad)
        assert answer.status_code == 422
        problems = answer.json()["error"]["problems"]
        assert {one["path"] for one in problems} >= {"name", "model.name", "budgets.trails", "objectives"}
        assert any("did you mean 'trials'" in one["message"] for one in problems)

    @pytest.mark.parametrize("kind", ["text/html", "application/x-pickle", "multipart/form-data", "application/xml"])
    def test_other_types_are_refused(self, client: httpx.Client, kind: str) -> None:
        assert client.post(f"{API}/studies", content=b"x", headers={"Content-Type": kind}).status_code == 415

    @pytest.mark.parametrize("key", ["x" * 201, "a b", ""])
    def test_bad_keys_are_refused(self, client: httpx.Client, key: str) -> None:
        answer = client.post(f"{API}/studies", content=EXAMPLE, headers={**YAML, "Idempotency-Key": key})
        assert answer.status_code == 422
        assert answer.json()["error"]["problems"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"null",
            b"42",
            b"\xff\xfe",
            b"name: [",
            b"- a\n" * 60_000,
            b"{" * 100_000,
            b"[" * 250_000,
            b'{"a":' * 30_000,
            b"name: a\nname: b",
            b"&a [*a, *a]",
            b"!!python/object/apply:os.system [id]",
            b"name: .nan",
            b"a: &x [1]\nb: *x",
            b"%YAML 9.9\n---\na: 1",
            b"\x00",
            b"name: " + b"x" * 200_000,
            b"? {a: 1}\n: 2",
            b"1: 2",
            b"---\n---\n",
            b"name: first\nmodel: builtin:minilm-l6\ntask: builtin:trec\nbudgets: {trials: 1e308}",
            b'{"name": NaN}',
        ],
    )
    @pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
    def test_hostile_bodies_are_refused_soon(self, client: httpx.Client, body: bytes, kind: str) -> None:
        begun = time.monotonic()
        answer = client.post(f"{API}/studies", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 422
        assert answer.json()["error"]["problems"]
        assert time.monotonic() - begun < 5


class TestFiles:
    """On a shared server a study may name files only in the folder that was opened for it."""

    REFUSED = (
        "/etc/passwd",
        "../x.csv",
        "data.csv",
        "~/x",
        "file:///etc/passwd",
        "s3://bucket/x",
        "C:\\x",
        "a/b/c",
        "./x",
        "//proc/self/root",
        "x\0y",
        "hub/../x",
        "\uff0e\uff0e/x",
        "a" * 300,
        "x#y.csv",
        "builtin:../x",
    )

    @pytest.fixture(scope="class")
    def shared(self, serve: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> tuple[Served, Path]:
        data = tmp_path_factory.mktemp("data").resolve()
        (data / "train.csv").write_text("text,label\n")
        (data / "out").symlink_to("/etc")
        return serve(shared=True, data=data), data

    @pytest.mark.parametrize("name", REFUSED)
    def test_others_are_refused(self, shared: tuple[Served, Path], name: str) -> None:
        for spec in (
            {"name": "x", "model": name, "task": "builtin:trec"},
            {"name": "x", "model": "builtin:minilm-l6", "task": name},
            {"name": "x", "model": "builtin:minilm-l6", "task": {"files": {"train": name}}},
        ):
            if spec["model"] == "a/b/c" or spec["task"] == "a/b/c":
                continue
            with shared[0].client() as client:
                answer = client.post(f"{API}/studies", json=spec)
            assert answer.status_code == 422, answer.text

    def test_a_link_out_of_the_folder_is_refused(self, shared: tuple[Served, Path]) -> None:
        served, data = shared
        spec = {"name": "x", "model": "builtin:minilm-l6", "task": {"files": {"train": str(data / "out" / "passwd")}}}
        with served.client() as client:
            answer = client.post(f"{API}/studies", json=spec)
        assert answer.json()["error"]["problems"][0]["path"] == "task.files.train"

    def test_what_is_in_the_folder_and_on_the_hub_is_taken(self, shared: tuple[Served, Path]) -> None:
        served, data = shared
        inside = {"name": "inside", "model": "org/some-model", "task": {"files": {"train": str(data / "train.csv")}}}
        hub = {"name": "hub", "model": "bert-base-uncased", "task": "org/data-set"}
        with served.client() as client:
            assert [client.post(f"{API}/studies", json=one).status_code for one in (inside, hub)] == [201, 201]

    def test_on_a_machine_of_ones_own_any_file_is_taken(self, client: httpx.Client) -> None:
        spec = {"name": "own-file", "model": "/models/mine", "task": {"files": {"train": "train.csv"}}}
        assert client.post(f"{API}/studies", json=spec).status_code == 201


class TestReading:
    def test_a_study_is_shown(self, client: httpx.Client) -> None:
        one = client.get(f"{API}/studies/first").json()
        assert one["state"] == "complete"
        assert one["trials_budget"] == 24
        assert one["best"]["metric"] == "accuracy"
        assert one["spec"]["name"] == "first"

    def test_a_paused_trial_counts_once_and_for_good(self, served: Served, client: httpx.Client) -> None:
        store = begin(served.storage, spec_of("frozen"))
        add_settled(store, candidate("ia3"))
        number = pause_trial(store, candidate("bitfit"))
        seen = []
        for paused in (True, False, True):
            set_paused(store, number, paused)
            served.context.reports.forget("frozen")
            one = client.get(f"{API}/studies/frozen").json()
            seen.append((one["trials"], one["paused"]))
        assert seen == [(2, 1), (2, 0), (2, 1)]
        trial = client.get(f"{API}/studies/frozen/trials").json()["trials"][number]
        assert (trial["state"], trial["tag"], trial["finished"]) == ("paused", "paused", None)
        assert client.get(f"{API}/studies/frozen/front").json()["front"]["counts"] == {"front": 1, "paused": 1}
        store.finish("search", number, "partial")
        served.context.reports.forget("frozen")
        one = client.get(f"{API}/studies/frozen").json()
        assert (one["trials"], one["paused"]) == (2, 0)

    def test_studies_are_listed_the_newest_first_and_by_pages(self, served: Served, client: httpx.Client) -> None:
        whole = client.get(f"{API}/studies?limit=1000").json()
        names = [one["name"] for one in whole["studies"]]
        assert names == served.storage.names()[::-1]
        assert client.get(f"{API}/studies?limit=1&offset=1").json()["studies"][0]["name"] == names[1]
        assert client.get(f"{API}/studies?offset=100000").json() == {"studies": [], "total": len(names)}

    def test_trials_come_by_phase_and_by_pages(self, client: httpx.Client) -> None:
        every = client.get(f"{API}/studies/first/trials").json()
        search = client.get(f"{API}/studies/first/trials?phase=search&limit=5&offset=20").json()
        assert [one["number"] for one in search["trials"]] == [20, 21, 22, 23]
        assert search["total"] == 24
        assert {one["phase"] for one in every["trials"]} == {"search", "references", "finalists"}
        assert {"front", "dominated", "partial", "failed"} <= {one["tag"] for one in every["trials"]}

    def test_the_front_is_that_of_the_record(self, served: Served, client: httpx.Client) -> None:
        answer = client.get(f"{API}/studies/first/front").json()
        front = served.context.reports.of("first").front
        assert front is not None
        assert answer["front"] == json.loads(json.dumps(front.to_json()))
        assert answer["front"]["pick"]["reason"]
        assert answer["metrics"]["latency_ms"]["unit"] == "ms"

    @pytest.mark.parametrize("path", ["trials", "front"])
    def test_what_has_not_changed_is_not_sent_again(self, client: httpx.Client, path: str) -> None:
        first = client.get(f"{API}/studies/first/{path}")
        again = client.get(f"{API}/studies/first/{path}", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    def test_a_study_that_never_started_has_no_front_yet(self, client: httpx.Client) -> None:
        client.post(f"{API}/studies", content=_text("fresh"), headers=YAML)
        assert client.get(f"{API}/studies/fresh/front").json()["front"] is None
        assert client.get(f"{API}/studies/fresh/trials").json()["trials"] == []

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=1001", "offset=-1", "limit=x", "phase=all", "offset=99999999999999999999"]
    )
    def test_bad_queries_are_refused(self, client: httpx.Client, query: str) -> None:
        answer = client.get(f"{API}/studies/first/trials?{query}")
        assert answer.status_code == 422
        assert answer.json()["error"]["problems"][0]["path"].startswith("query.")

    def test_the_description_names_every_route(self, client: httpx.Client) -> None:
        schema = client.get(f"{API}/openapi.json").json()
        assert len(schema["paths"]) == 7
        page = client.get(f"{API}/docs").text
        assert all(path in page for path in schema["paths"])


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("rest", ["", "/trials", "/front", "/events"])
    def test_no_name_leads_anywhere(self, served: Served, name: str, rest: str) -> None:
        status, text = _get(served, f"{API}/studies/{name}{rest}")
        assert status in (400, 404, 405), text
        assert "root:" not in text

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("what", ["stop", "resume"])
    def test_nothing_is_done_to_such_names(self, served: Served, name: str, what: str) -> None:
        status, _ = _get(served, f"{API}/studies/{name}/{what}", "POST")
        assert status in (400, 404, 405)

    @pytest.mark.parametrize("name", NAMES)
    def test_no_static_file_but_ours(self, served: Served, name: str) -> None:
        assert _get(served, f"/paretune/static/{name}")[0] in (400, 404)

    def test_nothing_was_left_in_the_home(self, served: Served) -> None:
        root = served.context.settings.home.root
        found = sorted(
            path.name for path in root.rglob("*") if path.name.partition(".db")[0] not in ("paretune", "queue")
        )
        assert found == []


def _get(served: Served, path: str, method: str = "GET") -> tuple[int, str]:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    return served.raw(
        head.replace("{{", "%7b%7b").replace("}}", "%7d%7d").replace("a b", "a%20b").encode("latin-1", "replace")
    )


class TestDoing:
    def test_stop_and_resume(self, client: httpx.Client) -> None:
        client.post(f"{API}/studies", content=_text("stopping"), headers=YAML)
        assert client.post(f"{API}/studies/stopping/stop").json()["state"] == "stopped"
        assert client.get(f"{API}/studies/stopping").json()["reason"] == "stopped before it started"
        assert client.post(f"{API}/studies/stopping/resume").json()["state"] == "queued"

    def test_a_study_of_the_command_line_is_asked_to_stop(self, served: Served, client: httpx.Client) -> None:
        store = begin(served.storage, spec_of("by-hand"))
        with served.context.settings.home.drive("by-hand"):
            assert client.get(f"{API}/studies/by-hand").json()["state"] == "running"
            assert client.post(f"{API}/studies/by-hand/stop").status_code == 200
            assert store.noted("stop") is True
            assert client.post(f"{API}/studies/by-hand/resume").status_code == 409
        time.sleep(1.1)
        assert client.get(f"{API}/studies/by-hand").json()["state"] == "interrupted"

    def test_what_is_not_there_is_not_found_with_a_near_name(self, client: httpx.Client) -> None:
        answer = client.get(f"{API}/studies/frist")
        assert answer.status_code == 404
        assert "did you mean 'first'" in answer.json()["error"]["message"]

    @pytest.mark.parametrize("path", ["/studies/first", "/studies/first/stop", "/nothing"])
    def test_errors_have_one_form(self, client: httpx.Client, path: str) -> None:
        answer = client.delete(f"{API}{path}")
        assert answer.status_code in (404, 405)
        assert set(answer.json()["error"]) == {"message", "problems"}


class TestEvents:
    def test_a_change_is_told(self, served: Served) -> None:
        store = begin(served.storage, spec_of("live"))
        seen: list[dict[str, Any]] = []
        with served.client() as client, client.stream("GET", f"{API}/studies/live/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    seen.append(json.loads(line[5:]))
                    if len(seen) == 3:
                        break
                    threading.Thread(target=add_settled, args=(store, candidate("ia3", 1e-3 * len(seen)))).start()
        assert [one["trials"] for one in seen] == [0, 1, 2]
        assert len({one["version"] for one in seen}) == 3

    def test_who_knows_the_version_is_told_nothing(self, served: Served) -> None:
        version = served.context.reports.of("first").version
        with served.client() as client:
            headers = {"Last-Event-ID": version}
            with client.stream("GET", f"{API}/studies/first/events", headers=headers) as stream:
                lines = stream.iter_lines()
                assert [next(lines) for _ in range(3)] == ["retry: 1000", "", ": still here"]


class TestLoad:
    def test_reports_are_made_once_for_a_crowd(self, served: Served) -> None:
        store = begin(served.storage, spec_of("crowded"))
        fill(store, 12)
        start_trial(store, candidate("lora(r=8)"))
        made: list[float] = []
        reports = served.context.reports
        make = reports._make

        def counted(name: str) -> Any:
            made.append(time.monotonic())
            return make(name)

        reports._make = counted  # type: ignore[method-assign]
        try:
            with ThreadPoolExecutor(16) as crowd:
                list(crowd.map(lambda _: reports.of("crowded"), range(200)))
        finally:
            reports._make = make  # type: ignore[method-assign]
        assert len(made) <= 3

    def test_random_requests_never_break_the_server(self, served: Served, client: httpx.Client) -> None:
        rng = random.Random(0)
        alphabet = "/.%abcdef0123456789-_~;:@&=+$,?studies"
        for _ in range(150):
            path = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 40)))
            status, _ = _get(
                served, f"{API}/{path.replace('?', '')}", rng.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS"])
            )
            assert status < 500
        assert client.get(f"{API}/studies").status_code == 200
