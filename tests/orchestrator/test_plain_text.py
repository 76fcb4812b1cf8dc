"""What the command line prints of placements and users' words: whole, though Rich would take `[top:1]` for markup."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import cli
from orchestrator.cli.output import table
from orchestrator.cli.progress import LiveTable
from orchestrator.home import Home
from orchestrator.storage import Storage
from orchestrator.trial import Trial
from search_space.notation import write
from tests.dashboards import stored

CANDIDATES = ("lora(r=2)@linear[top:1]", "lora(r=2)@attention[every:2] + bitfit@linear[top:3]")
USER = "[bold]x :top: \\[a]"
SPEC = """
name: tried
model: "-"
task: "-"
space: {methods: {lora: {r: 2, layers: "top:1"}}, hybrids: []}
training: {steps: 90}
synthetic: {}
"""


def shown(anything: object, *, markup: bool) -> str:
    """Return what a console prints, also one that reads markup."""
    to = Console(file=io.StringIO(), width=200, markup=markup)
    to.print(anything)
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


@pytest.mark.parametrize("markup", [True, False])
@pytest.mark.parametrize("text", [*CANDIDATES, USER, "[/]", "[red]"])
def test_a_table_shows_texts_as_they_are(text: str, markup: bool) -> None:
    made = shown(table([f"a longer head {text}"], [[text]], title=f"title {text}"), markup=markup)
    assert [line.strip() for line in made.splitlines()] == [f"title {text}", f"a longer head {text}", text]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("PARETUNE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("PARETUNE_STORAGE", "MLFLOW_TRACKING_URI", "PARETUNE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return stored.empty_home(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["paretune", *words])
        with suppress(SystemExit):
            cli.main()
    told = capsys.readouterr()
    return told.out + told.err


def trials(home: Home) -> list[Trial]:
    """Store a study of the two candidates, and a third whose failure tells a user's words."""
    store = stored.begin(Storage(f"sqlite:///{home.root / 'paretune.db'}"), stored.spec_of("placed"))
    for text in CANDIDATES:
        stored.add_settled(store, stored.candidate(text))
    failed = stored.start_trial(store, stored.candidate("lora(r=2)@linear[first:1]"))
    store.finish("search", failed, "failed", "raised", USER)
    return store.trials()


def test_the_front_and_the_trials_show_the_layers(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    kept = trials(home)
    for verb in ("show", "pareto"):
        assert all(f" {text} " in said(capsys, verb, "placed") for text in CANDIDATES)
    assert f"\n{write(kept[1].candidate)}\n" in said(capsys, "show", "placed", "--trial", "1")
    assert f"\n{USER}\n" in said(capsys, "show", "placed", "--trial", "2")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_shows_the_layers(home: Home, capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
    kept = trials(home)
    to = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    live = LiveTable(stored.spec_of("placed"), to)
    for one in kept:
        live.changed(one)
    assert isinstance(to.file, io.StringIO)
    if terminal:
        to.print(live._render())
    told = to.file.getvalue() + capsys.readouterr().err
    assert all(text in told for text in CANDIDATES)
    assert "failed" in told
    assert "(raised)" in told


def test_a_dry_run_shows_the_layers(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    file = home.root / "study.yaml"
    file.write_text(SPEC)
    assert "\nlora(r=2)@attention.query,attention.value[top:1] " in said(capsys, "run", str(file), "--dry-run")


def test_a_front_picture_lies_in_a_folder_with_brackets(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = home.root / "[bold]x"
    inside.mkdir()
    monkeypatch.setenv("PARETUNE_HOME", str(inside))
    monkeypatch.setenv("PARETUNE_STORAGE", f"sqlite:///{home.root / 'paretune.db'}")
    trials(home)
    (inside / "studies" / "placed" / "front").mkdir(parents=True)
    assert str(inside / "studies" / "placed" / "front" / "pareto.png") in said(capsys, "pareto", "placed")
