"""`paretune profile`: where the time of a trial goes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from orchestrator.cli.output import Json, console, print_json, table
from orchestrator.cli.running import StudyFile
from orchestrator.home import Home
from orchestrator.study_file import read_file
from search_space.candidate import Candidate
from search_space.errors import InputError, PlacementError, UnsupportedError
from search_space.notation import parse, write_parts
from search_space.quantities import format_seconds

if TYPE_CHECKING:
    from orchestrator.preparation import Prepared

Candidates = Annotated[
    list[str] | None,
    typer.Option("--candidate", help="A candidate in short notation; may be given again.", metavar="NOTATION"),
]
Steps = Annotated[int, typer.Option("--steps", min=1, max=10_000, help="Training steps of each candidate.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(profile)


def profile(file: StudyFile, candidate: Candidates = None, steps: Steps = 20, json: Json = False) -> None:
    """Train a few steps of a study's candidates and say where the time of a trial goes; nothing is recorded."""
    from evaluators.profile import profile as measure
    from orchestrator.preparation import prepare

    spec = read_file(file)
    if spec.synthetic is not None:
        raise InputError("a synthetic study trains nothing that could be profiled; take `synthetic` away")
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(spec, Path(folder), tables=Home().tables())
        chosen = [parse(one) for one in candidate or ["head"]]
        chosen = chosen if candidate else [prepared.space.usual(), *chosen]
        rungs = len(spec.search.early_stopping.steps(prepared.evaluator.steps))
        parts = {one: _parts(prepared, one, spec.budgets.memory_factor) for one in chosen}
        data = measure(prepared.evaluator, chosen, spec.search.seed, steps, rungs, parts).to_json()
    if json:
        print_json(data)
    else:
        _show(data)


def _parts(prepared: Prepared, candidate: Candidate, factor: float) -> int | None:
    """Return the parts that a study would divide a candidate's steps into; None where it would not."""
    try:
        return prepared.cost(candidate, factor).accumulation
    except (UnsupportedError, PlacementError):  # its profile says why
        return None


def _show(data: dict[str, Any]) -> None:
    console.print(
        f"Once for each process: {format_seconds(data['load'])} to load. A trial of {data['full_steps']} steps, scored "
        f"at {data['rungs']} rungs, from {data['steps']} steps that were trained:\n"
    )
    trained = [one for one in data["trials"] if not one["failure"]]
    heads = ["phase", *(write_parts(parse(one["candidate"])) for one in trained)]
    phases = list(trained[0]["whole"]) if trained else []
    rows: list[list[str | Text]] = [[phase, *(_part(one["whole"], phase) for one in trained)] for phase in phases]
    rows.append([Text("total", "bold"), *(f"{format_seconds(sum(one['whole'].values()))}      " for one in trained)])
    console.print(table(heads, rows, right=range(1, len(heads))))
    padding = data["padding"]
    console.print(
        f"\nPadding: {padding['training']:.1%} of the tokens of training, {padding['evaluation']:.1%} of evaluation; "
        f"{padding['to_the_longest']:.1%} if all were padded to the longest."
    )
    for one in trained:
        stored = f"{one['stored_layers']} layers start from stored states" if not one["why_whole"] else one["why_whole"]
        console.print(f"{write_parts(parse(one['candidate']))}: {stored}.")
    for one in data["trials"]:
        if one["failure"]:
            console.print(f"{one['candidate']}: {one['failure']}", style="red")


def _part(seconds: dict[str, float], phase: str) -> str:
    return f"{format_seconds(seconds[phase])}  {seconds[phase] / sum(seconds.values()):4.0%}"
