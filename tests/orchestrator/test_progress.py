"""The live table: what a bar and its foot say while candidates run, wait at rungs and are settled."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.cli.progress import LiveTable
from orchestrator.trial import State, Trial
from tests.orchestrator.made_up import make_score, make_spec, make_trial


def live(*, terminal: bool = True) -> LiveTable:
    made = LiveTable(make_spec(), Console(file=io.StringIO(), width=140, force_terminal=terminal))
    made.phase("search", 3)
    return made


def shown(table: LiveTable) -> list[str]:
    """Return what stands in the terminal, line by line, without colours."""
    plain = Console(file=io.StringIO(), width=140, no_color=True)
    plain.print(table._render())
    assert isinstance(plain.file, io.StringIO)
    return plain.file.getvalue().splitlines()


def trial(number: int, state: State, step: int = 0) -> Trial:
    scores = (make_score({"accuracy": 0.5}, step),) if step else ()
    return make_trial(number, None, state=state, scores=scores)


def test_the_bar_counts_a_candidate_once_when_it_pauses_or_is_settled() -> None:
    table, bars = live(), []
    for number, state, step in (
        (0, "running", 0), (0, "paused", 10), (1, "running", 0), (1, "complete", 90), (0, "running", 10),
        (0, "paused", 30), (2, "running", 0), (2, "paused", 10), (3, "infeasible", 0), (0, "partial", 30),
        (2, "partial", 10),
    ):  # fmt: skip
        table.changed(trial(number, state, step))  # type: ignore[arg-type]
        bars.append(shown(table)[0].split()[-1])
    assert bars == ["0/3", "1/3", "1/3", "2/3", "2/3", "2/3", "2/3", "3/3", "3/3", "3/3", "3/3"]


def test_the_foot_counts_what_waits_where_anything_does() -> None:
    table = live()
    table.changed(trial(0, "running"))
    assert "1 running, 0 rejected untrained" in shown(table)[-1]
    table.changed(trial(1, "paused", 10))
    assert "1 running, 1 paused, 0 rejected untrained" in shown(table)[-1]


def test_many_that_wait_do_not_hide_what_ended_last() -> None:
    table = live()
    for number in range(30):
        table.changed(trial(number, "paused", 10))
    table.changed(trial(30, "running"))
    table.changed(trial(3, "running", 10))
    table.changed(trial(3, "complete", 90))
    rows = [line.split()[0] for line in shown(table)[2:-1]]
    assert rows[-3:] == ["29", "3", "30"]


def test_without_a_terminal_each_pause_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = live(terminal=False)
    waiting = trial(0, "paused", 10)
    for one in (trial(0, "running"), waiting, replace(waiting, state="running"), trial(0, "paused", 30)):
        table.changed(one)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["paused", "paused"]
