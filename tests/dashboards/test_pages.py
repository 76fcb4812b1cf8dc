"""The pages: what they show, what their forms do, and that nothing a user writes becomes markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape

import httpx
import pytest

from dashboards.pages.assets import FOREIGN_SHEETS, PLOTLY, VERSION, assets
from dashboards.pages.rendering import EXAMPLE
from dashboards.pages.views import ago
from orchestrator.study_file import read_text
from tests.dashboards.conftest import Served
from tests.dashboards.stored import begin, candidate, complete, fill, pause_trial, spec_of, start_trial

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'-alert(1)-'",
    "</textarea><script>",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "javascript:alert(1)",
    "</title><script>",
    "<!--",
    "]]>",
    "\u202e<b>",
    "=HYPERLINK(1)",
    "&lt;b&gt;",
]


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    one = serve()
    complete(one.storage, "done", 24)
    fill(begin(one.storage, spec_of("cut-off")), 5)
    return one


@pytest.fixture(scope="module")
def client(served: Served) -> httpx.Client:
    return served.client()


class TestStudies:
    def test_it_shows_state_progress_and_the_best(self, client: httpx.Client) -> None:
        text = client.get("/paretune/").text
        assert 'href="/paretune/studies/done"' in text
        assert "24 of 24 trials" in text
        assert re.search(r"accuracy <b>0\.\d{4}</b>", text)
        assert "paretune resume cut-off" in text

    def test_the_example_is_a_study(self) -> None:
        assert read_text(EXAMPLE).name == "my-first-study"

    def test_a_study_is_submitted_by_the_form(self, served: Served, client: httpx.Client) -> None:
        answer = client.post("/paretune/studies", data={"study": EXAMPLE})
        assert (answer.status_code, answer.headers["location"]) == (303, "/paretune/studies/my-first-study")
        one = served.context.queue.find("my-first-study")
        assert one is not None
        assert one.state == "queued"

    def test_every_problem_is_shown_and_the_text_is_kept(self, client: httpx.Client) -> None:
        bad = "name: Bad\nmodel: builtin:minilm\ntask: builtin:trec\nbudgets: {trails: 3}\n"
        answer = client.post("/paretune/studies", data={"study": bad})
        text = unescape(answer.text)
        assert answer.status_code == 422
        assert "3 problems, nothing was submitted" in text
        assert all(f"<code>{path}</code>" in text for path in ("name", "model.name", "budgets.trails"))
        assert bad in text

    def test_a_name_that_is_taken_is_a_problem(self, client: httpx.Client) -> None:
        text = EXAMPLE.replace("my-first-study", "done")
        answer = client.post("/paretune/studies", data={"study": text})
        assert answer.status_code == 422
        assert "another spec" in answer.text

    @pytest.mark.parametrize(
        ("content", "kind", "status"),
        [
            (b"study=x", "text/plain", 415),
            (b"--x", "multipart/form-data; boundary=x", 415),
            (b"&".join([b"a=1"] * 20), "application/x-www-form-urlencoded", 400),
            (b"study=%ff", "application/x-www-form-urlencoded", 400),
            (b"", "application/x-www-form-urlencoded", 422),
        ],
    )
    def test_forms_that_are_none_are_refused(
        self, client: httpx.Client, content: bytes, kind: str, status: int
    ) -> None:
        answer = client.post("/paretune/studies", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")


class TestStudy:
    def test_it_shows_the_pick_with_its_reason_and_what_to_type(self, served: Served, client: httpx.Client) -> None:
        text = unescape(client.get("/paretune/studies/done").text)
        front = served.context.reports.of("done").front
        assert front is not None
        assert front.pick is not None
        assert front.pick.reason in text
        assert "paretune export done --to ./done-pick" in text
        assert "Recommended <span" in text

    def test_it_shows_finalists_with_intervals(self, client: httpx.Client) -> None:
        text = client.get("/paretune/studies/done").text
        assert len(re.findall(r"0\.\d{3} ± 0\.\d{3}", text)) >= 8
        assert "test" in text

    def test_it_shows_what_finalists_can_be_made_into(self, served: Served, client: httpx.Client) -> None:
        assert "<h2>Predictors</h2>" not in client.get("/paretune/studies/done").text
        costs, quality = {"checkpoint_bytes": 2048.0, "latency_ms": 4.5}, {"accuracy": 0.9123, "calibrated_nll": 0.31}
        sets = {"lac": {"coverage": 0.905, "mean_size": 1.25}, "aps": None}
        title = "ensemble of seeds, trial 3"
        point = {"name": "seeds-3", "kind": "seeds", "title": title, "trials": [3], "members": [], "passes": 3}
        point |= {"costs": costs, "validation": quality, "test": quality, "conformal": sets}
        served.storage.open("done").note("predictors", [point])
        served.context.reports.forget("done")
        text = client.get("/paretune/studies/done").text
        assert "<h2>Predictors</h2>" in text
        for shown in (title, "2 KiB", "4.5 ms", "0.9123", "0.3100", "0.905 (1.25)"):
            assert shown in text
        assert client.get("/paretune/api/v1/studies/done/front").json()["front"]["predictors"] == [point]
        served.storage.open("done").note("predictors", [])
        served.context.reports.forget("done")

    def test_it_can_be_stopped_and_continued(self, served: Served, client: httpx.Client) -> None:
        served.context.queue.submit(spec_of("waits"))
        assert 'action="/paretune/studies/waits/stop"' in client.get("/paretune/studies/waits").text
        assert client.post("/paretune/studies/waits/stop").headers["location"] == "/paretune/studies/waits"
        text = client.get("/paretune/studies/waits").text
        assert 'action="/paretune/studies/waits/resume"' in text
        assert "stopped before it started" in text
        client.post("/paretune/studies/waits/resume")
        assert served.context.queue.find("waits").state == "queued"  # type: ignore[union-attr]

    def test_it_says_how_many_wait_beside_those_that_run(self, served: Served, client: httpx.Client) -> None:
        store = begin(served.storage, spec_of("frozen"))
        for text in ("ia3", "bitfit"):
            pause_trial(store, candidate(text))
        start_trial(store, candidate("lora(r=4)"))
        with served.context.queue.home.drive("frozen"):
            text = client.get("/paretune/studies/frozen").text
        assert '<span class="sub">1 running, 2 paused</span>' in text
        assert "2 of 24 trials" in text
        store.note("status", "stopped")
        served.context.reports.forget("frozen")
        assert '<span class="sub">2 paused</span>' in client.get("/paretune/studies/frozen").text

    def test_a_study_without_scores_has_a_page(self, served: Served, client: httpx.Client) -> None:
        start_trial(begin(served.storage, spec_of("young")), candidate("ia3"))
        served.storage.create(spec_of("unborn"))
        for name in ("young", "unborn"):
            assert client.get(f"/paretune/studies/{name}").status_code == 200

    def test_one_and_three_objectives_have_pages(self, served: Served, client: httpx.Client) -> None:
        one, three = (
            [{"maximize": "accuracy"}],
            [{"maximize": "accuracy"}, {"minimize": "calibrated_ece"}, {"minimize": "latency_ms"}],
        )
        for name, objectives in (("one", one), ("three", three)):
            complete(served.storage, name, 8, objectives=objectives)
            assert "Recommended" in client.get(f"/paretune/studies/{name}").text

    def test_what_is_not_there_has_a_page_that_says_so(self, client: httpx.Client) -> None:
        for path in ("/paretune/studies/dnoe", "/paretune/nothing"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert "All studies" in answer.text
        assert "did you mean" in client.get("/paretune/studies/dnoe").text


class TestMarkup:
    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_what_is_written_into_the_form_is_text(self, client: httpx.Client, payload: str) -> None:
        for text in (payload, f"name: {payload!r}", f"{payload!r}: 1", EXAMPLE + f"\n{payload!r}: 1"):
            answer = client.post("/paretune/studies", data={"study": text})
            _is_inert(answer.text)

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_what_a_study_says_is_text(self, served: Served, client: httpx.Client, payload: str) -> None:
        name = f"payload-{PAYLOADS.index(payload)}"
        spec = spec_of(name, model=f"m{payload}", task={"dataset": f"d{payload}"})
        served.context.queue.submit(spec)
        store = begin(served.storage, spec)
        number = start_trial(store, candidate("ia3"))
        store.finish("search", number, "failed", "raised", payload)
        served.context.queue.settle(name, "failed", payload)
        store.note("status", "failed")
        for path in ("/paretune/", f"/paretune/studies/{name}"):
            text = client.get(path).text
            _is_inert(text)
            assert payload in unescape(text)
        answer = client.get(f"/paretune/api/v1/studies/{name}/trials")
        assert answer.json()["trials"][0]["message"] == payload
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_addresses_are_text(self, client: httpx.Client, payload: str) -> None:
        for answer in (
            client.get(f"/paretune/studies/{httpx.QueryParams({'x': payload})}"[:-1]),
            client.get("/paretune/login", params={"next": payload}),
            client.get("/paretune/", params={"x": payload}),
        ):
            _is_inert(answer.text)


def _is_inert(text: str) -> None:
    """Whether the page holds no markup that is not its own."""
    assert "<img src=x" not in text
    assert "<svg onload" not in text
    assert "alert(1)</script>" not in text
    assert text.count("<script") == text.count("defer></script>")


class TestAssets:
    def test_they_are_served_for_ever_under_their_version(self, client: httpx.Client) -> None:
        assert "immutable" in client.get(f"/paretune/static/study.js?v={VERSION}").headers["cache-control"]
        assert client.get("/paretune/static/study.js?v=other").headers["cache-control"] == "no-cache"

    def test_every_asset_that_a_page_names_is_there(self, client: httpx.Client) -> None:
        named = set()
        for path in ("/paretune/", "/paretune/studies/done", "/paretune/api/v1/docs", "/paretune/nothing"):
            text = client.get(path).text
            assert "http://" not in text.replace("http://www.w3.org", "")
            assert "https://" not in text
            named |= set(re.findall(r'(?:href|src)="(/paretune/static/[^"]+)"', text))
        assert {PLOTLY, "study.js", "paretune.css"} <= {one.partition("?")[0].rpartition("/")[2] for one in named}
        assert all(client.get(one).status_code == 200 for one in named)

    @pytest.mark.parametrize("name", ["", "nothing.js", "../app.py", "app.py", "example.yaml", "__init__.py"])
    def test_nothing_else_is(self, client: httpx.Client, name: str) -> None:
        assert client.get(f"/paretune/static/{name}").status_code == 404

    def test_large_ones_travel_compressed(self, served: Served) -> None:
        with served.client(headers={"Accept-Encoding": "gzip"}) as client:
            answer = client.get(f"/paretune/static/{PLOTLY}")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.content == assets()[PLOTLY].content

    def test_the_sheets_of_the_chart_library_are_kept_out(self, client: httpx.Client) -> None:
        assert FOREIGN_SHEETS
        assert all(f'<meta id="{one}">' in client.get("/paretune/studies/done").text for one in FOREIGN_SHEETS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "just now"),
        (50, "1 min ago"),
        (3500, "58 min ago"),
        (7000, "2 h ago"),
        (90_000, "1 day ago"),
        (200_000, "2 days ago"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: int, text: str) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == text
    assert ago(now - timedelta(days=90), now) == "2026-01-31"
