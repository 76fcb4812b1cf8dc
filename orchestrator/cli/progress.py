"""The live progress table of a running study, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import add_row, cell, known, short, table
from orchestrator.spec import StudySpec
from orchestrator.trial import Phase, Trial
from search_space.notation import write_parts
from search_space.quantities import format_seconds

_ROWS = 14
_COLOURS = {
    "complete": "green",
    "partial": "yellow",
    "failed": "red",
    "infeasible": "bright_black",
    "paused": "blue",
    "running": "cyan",
}
_WORDS = {"partial": "stopped early", "infeasible": "over budget"}
_TITLES = {"search": "Searching", "finalists": "Training the finalists on fresh seeds", "references": "References"}


class LiveTable:
    """Watches a study and shows it; a context manager."""

    def __init__(self, spec: StudySpec, console: Console) -> None:
        self._spec = spec
        self._console = console
        self._trials: dict[str, Trial] = {}
        self._phase: Phase = "search"
        self._planned = 0
        self._done: set[str] = set()
        self._started = time.monotonic()
        self._metrics = list(dict.fromkeys([*(one.metric for one in spec.objectives), "ece", "peak_memory_bytes"]))
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, name: Phase, planned: int) -> None:
        """Begin a phase."""
        self._phase, self._planned = name, planned
        self._done.clear()
        if not self._console.is_terminal:
            self._print(f"{_TITLES[name]}: {planned} trials")

    def changed(self, trial: Trial) -> None:
        """Take in a trial that was started, scored, paused or settled.

        One that is paused counts as done from then on: another begins in its place, and it may never go on.
        """
        before = self._trials.get(trial.key)
        is_news = before is None or before.state != trial.state
        if is_news:
            self._trials.pop(trial.key, None)
        self._trials[trial.key] = trial
        if trial.state not in ("running", "infeasible"):
            self._done.add(trial.key)
        if not self._console.is_terminal and is_news and trial.state != "running":
            self._print("  " + "  ".join(str(text) for text in self._row(trial) if text))

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _render(self) -> RenderableType:
        trials = list(self._trials.values())
        shown = [one for one in trials if one.state != "infeasible"]
        running = [one for one in shown if one.state == "running"]
        rows = ([one for one in shown if one.state != "running"] + running)[-_ROWS:]
        heads = ["trial", "candidate", "step", *map(short, self._metrics), "state"]
        body = table(heads, [], right=range(2, len(heads) - 1))
        for one in rows:
            add_row(body, self._row(one), style="dim" if one.state in ("partial", "paused") else "")
        paused = sum(one.state == "paused" for one in shown)
        foot = [f"{len(running)} running", *([f"{paused} paused"] if paused else [])]
        foot += [f"{len(trials) - len(shown)} rejected untrained", format_seconds(time.monotonic() - self._started)]
        return Group(self._bar(), body, Text(", ".join(foot), style="bright_black"))

    def _bar(self) -> RenderableType:
        done, planned = len(self._done), max(self._planned, len(self._done))
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(planned, 1), completed=done, width=30)
        line.add_row(Text(f"{self._spec.name}: {_TITLES[self._phase]}", style="bold"), bar, f"{done}/{planned}")
        return line

    def _row(self, trial: Trial) -> list[str | Text]:
        values = trial.score.values if trial.score else (trial.cost.values if trial.cost else None)
        cells = [cell(metric, known(values, metric)) for metric in self._metrics]
        label = str(trial.number) if trial.phase == "search" else f"{trial.phase[:-1]} {trial.number}"
        word = _WORDS.get(trial.state, trial.state) if self._console.is_terminal else trial.state
        state = Text.assemble((word, _COLOURS[trial.state]))
        if trial.state == "failed":
            state.append(f" ({trial.cause or 'cause not known'})")
        return [label, write_parts(trial.candidate), str(trial.steps or ""), *cells, state]
