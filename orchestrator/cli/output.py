"""Output for people and for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluators.score import METRICS
from orchestrator.pick import format_value
from search_space.quantities import format_bytes, format_count

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one line of JSON for each change.")]
StudyName = Annotated[str, typer.Argument(help="Name of a study; `paretune ls` lists them.", metavar="STUDY")]

console = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Both print text as it is, as `[top:1]` of a placement would be taken for markup; what has a style is a `Text`."""


def command() -> str:
    """Return what to type for this program: its name where the shell finds it, else its path from here."""
    if shutil.which("paretune"):
        return "paretune"
    beside = Path(sys.executable).with_name("paretune")
    here = Path.cwd()
    return str(beside.relative_to(here)) if beside.is_relative_to(here) else str(beside)


def print_json(data: Any) -> None:
    """Print JSON data, indented where a person looks."""
    print(json.dumps(data, indent=2 if sys.stdout.isatty() else None, allow_nan=False, default=str))


def print_json_line(data: Any) -> None:
    """Print JSON data on one line, at once."""
    print(json.dumps(data, allow_nan=False, default=str), flush=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], title: str | None = None, right: Sequence[int] = ()
) -> Table:
    """Make a table; `right` names the columns of numbers. A text is shown as it is; a `Text` brings its style."""
    head = None if title is None else Text(title)
    made = Table(title=head, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        number = index in right
        made.add_column(Text(column), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        add_row(made, row)
    return made


def add_row(to: Table, row: Sequence[str | Text], style: str = "") -> None:
    """Add a row to a table, its texts shown as they are whatever the console takes for markup."""
    to.add_row(*(Text(one) if isinstance(one, str) else one for one in row), style=style)


def cell(metric: str, value: float | None) -> str:
    """Write a metric's value for people."""
    if value is None:
        return "–"
    unit = METRICS[metric].unit
    if unit == "B":
        return format_bytes(value)
    if unit == "parameters":
        return format_count(value)
    if unit in ("FLOP", "J", "s"):
        return format_value(value, METRICS[metric])
    return f"{value:.1f} ms" if unit == "ms" else f"{value:.3f}"


def short(metric: str) -> str:
    """Return a metric's column head."""
    return METRICS[metric].short


def known(values: Mapping[str, float] | None, metric: str) -> float | None:
    """Return a metric's value where it was measured."""
    return None if values is None else values.get(metric)
