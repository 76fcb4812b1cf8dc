"""The pages in a real browser: the chart appears, grows while the study runs, and nothing breaks the page's policy."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dashboards.conftest import SECRET, Served
from tests.dashboards.stored import add_settled, begin, candidate, complete, fill, pause_trial, spec_of, start_trial

pytestmark = pytest.mark.browser
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""
CLICK_THE_PICK = """
(() => {
  const box = document.getElementById("chart");
  const key = box.data.find((one) => one.name === "pick").customdata[0];
  box.emit("plotly_click", { points: [{ customdata: key }] });
  return key;
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(executable_path=program, args=FLAGS)
        yield one
        one.close()


class Visit:
    """A page in a window of its own; what goes wrong in it is kept."""

    def __init__(self, browser: Any, served: Served, **more: Any) -> None:
        self.served = served
        self.window = browser.new_context(**more)
        self.page = self.window.new_page()
        self.page.add_init_script(WATCH)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.hosts: set[str] = set()
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def go(self, path: str) -> Any:
        self.page.goto(self.served.url + path)
        return self.page

    def is_clean(self) -> bool:
        """Whether there was no error, nothing against the policy, and nothing fetched from elsewhere."""
        assert self.errors == []
        assert self.page.evaluate("window.violations") == []
        assert self.hosts == {f"127.0.0.1:{self.served.port}"}
        return True


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    one = serve()
    complete(one.storage, "done", 24)
    return one


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Visit]:
    one = Visit(browser, served)
    yield one
    one.window.close()


def _points(page: Any) -> int:
    return int(page.locator("#chart .scatterlayer path.point").count())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_study_shows_its_chart_and_its_table(browser: Any, served: Served, scheme: str, width: int) -> None:
    visit = Visit(browser, served, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = visit.go("/paretune/studies/done")
    page.wait_for_selector("#chart .scatterlayer path.point")
    assert page.locator("#trials tbody tr").count() == 26
    assert _points(page) > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.is_clean()
    visit.window.close()


def test_a_running_study_grows_without_a_reload(visit: Visit) -> None:
    served = visit.served
    spec = spec_of("live")
    served.context.queue.submit(spec)
    served.context.queue.claim()
    store = begin(served.storage, spec)
    page = visit.go("/paretune/studies/live")
    page.wait_for_selector("#nothing:not([hidden])")
    page.evaluate("window.untouched = true")
    fill(store, 4)
    page.wait_for_selector("#chart .scatterlayer path.point")
    page.wait_for_function("() => document.querySelectorAll('#trials tbody tr').length === 4")
    before = _points(page)
    add_settled(store, candidate("serial_adapter(r=64)"))
    start_trial(store, candidate("lora(r=8)"))
    page.wait_for_function("() => document.querySelectorAll('#trials tbody tr').length === 6")
    page.wait_for_function(f"() => document.querySelectorAll('#chart .scatterlayer path.point').length > {before}")
    assert "5/24" in page.locator("#head .count").text_content()
    store.note("status", "complete")
    served.context.queue.settle("live", "complete")
    page.wait_for_selector("#head .pill.complete")
    assert page.evaluate("window.untouched") is True
    assert visit.is_clean()


def test_paused_trials_are_a_group_of_their_own_also_when_the_study_was_stopped(visit: Visit) -> None:
    store = begin(visit.served.storage, spec_of("frozen"))
    fill(store, 6)
    for text in ("bitfit", "ln_tuning"):
        pause_trial(store, candidate(text))
    cut_off = start_trial(store, candidate("lora(r=8)"))
    store.note("status", "stopped")
    page = visit.go("/paretune/studies/frozen")
    page.wait_for_selector("#chart .scatterlayer path.point")
    assert page.locator('[data-tag="paused"]').text_content() == "paused 2"
    assert page.locator(f'tr[data-key="search/{cut_off}"] .tag').text_content() == "cut off"
    traces = page.evaluate("chart.data.map((one) => [one.name, one.marker.symbol, one.x.length])")
    assert [one for one in traces if one[0] == "paused at a rung"] == [["paused at a rung", "square-open", 2]]
    page.click('[data-tag="paused"]')
    assert page.locator("#trials tbody .tag").all_text_contents() == ["paused", "paused"]
    assert "2 paused" in page.locator("#head .facts").text_content()
    assert visit.is_clean()


def test_points_and_rows_lead_to_each_other(visit: Visit) -> None:
    page = visit.go("/paretune/studies/done")
    page.wait_for_selector("#chart .scatterlayer path.point")
    before = _points(page)
    page.locator("#trials tbody tr").nth(8).click()
    assert page.locator("#trials tr.chosen").count() == 1
    page.wait_for_function(
        f"() => document.querySelectorAll('#chart .scatterlayer path.point').length === {before + 1}"
    )
    page.keyboard.press("Enter")
    pick = page.evaluate(CLICK_THE_PICK)
    assert page.locator("#trials tr.chosen").get_attribute("data-key") == pick
    assert visit.is_clean()


def test_the_table_is_sorted_and_filtered_by_keyboard(visit: Visit) -> None:
    page = visit.go("/paretune/studies/done")
    page.wait_for_selector("#trials tbody tr")
    page.focus('[data-sort="trainable_params"]')
    page.keyboard.press("Enter")
    assert page.locator('th[aria-sort="ascending"]').text_content() == "params"
    first = page.locator("#trials tbody tr").first.text_content()
    page.keyboard.press("Enter")
    assert page.locator('th[aria-sort="descending"]').count() == 1
    assert page.locator("#trials tbody tr").first.text_content() != first
    page.focus('[data-tag="front"]')
    page.keyboard.press("Space")
    assert set(page.locator("#trials tbody .tag").all_text_contents()) <= {"front", "front, pick"}
    assert page.locator('[data-tag="front"]').get_attribute("aria-pressed") == "true"
    assert visit.is_clean()


def test_axes_can_be_chosen(visit: Visit) -> None:
    page = visit.go("/paretune/studies/done")
    page.wait_for_selector("#chart .scatterlayer path.point")
    page.select_option("#x", "latency_ms")
    page.wait_for_function("() => document.querySelector('#chart .xtitle').textContent.startsWith('latency')")
    assert visit.is_clean()


def test_hostile_words_do_nothing(visit: Visit) -> None:
    payload = "<img src=x onerror=\"window.hacked=1\"><b>bold</b><a href='javascript:window.hacked=1'>x</a>"
    store = begin(visit.served.storage, spec_of("hostile"))
    number = start_trial(store, candidate("ia3"))
    store.finish("search", number, "failed", "raised", payload)
    add_settled(store, candidate("bitfit"))
    page = visit.go("/paretune/studies/hostile")
    page.wait_for_selector("#trials tbody .message")
    assert payload in page.locator("#trials tbody .message").text_content()
    page.locator("#chart .scatterlayer path.point").first.hover(force=True)
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#trials b, #trials img, #trials a").count() == 0


def test_the_list_is_live_and_the_form_works(visit: Visit) -> None:
    page = visit.go("/paretune/")
    assert page.locator("#studies .name a").first.text_content()
    name = f"from-elsewhere-{random.Random().randrange(10**6)}"
    visit.served.context.queue.submit(spec_of(name))
    page.wait_for_selector(f"text={name}", timeout=10_000)
    page.click("summary")
    page.fill("#study", "name: Bad")
    page.click("text=Submit study")
    page.wait_for_selector(".alert")
    page.click("text=Studies >> nth=0")
    page.click("summary")
    page.click("text=Submit study")
    page.wait_for_selector("h1:has-text('my-first-study')")
    page.click("#stop")
    page.wait_for_selector("#head .pill.stopped")


def test_a_browser_logs_in_and_comes_back(browser: Any, serve: Callable[..., Served]) -> None:
    visit = Visit(browser, serve(SECRET))
    page = visit.go("/paretune/api/v1/docs")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector(".alert")
    page.fill("#token", SECRET)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('API')")
    cookie = visit.window.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.goto(f"{visit.served.url}/paretune/login?next=/paretune/")
    page.wait_for_selector("h1:has-text('Studies')")
    page.click("text=Log out")
    page.wait_for_selector("#token")
    visit.window.close()
