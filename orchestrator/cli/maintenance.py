"""`paretune export`, `record` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.output import Json, StudyName, console, print_json, table
from orchestrator.home import Home
from orchestrator.storage import Storage
from search_space.errors import StudyLockedError


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(export)
    app.command()(record)
    app.command()(doctor)


def export(
    study: StudyName,
    to: Annotated[Path, typer.Option("--to", help="The folder to make.")],
    trial: Annotated[int | None, typer.Option(help="A trial of the search; the recommended pick by default.")] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Merge it into the backbone's weights: a plain transformers checkpoint.")
    ] = False,
    json: Json = False,
) -> None:
    """Export a candidate as a folder that reloads to equal outputs."""
    from orchestrator.export.folder import export as export_folder

    home = Home().create()
    made = export_folder(Storage(home.storage_url).open(study), home, trial, to.resolve(), merged)
    if json:
        print_json(made.to_json())
        return
    alone = "peft.PeftModel.from_pretrained" if made.peft else "evaluators.exported.load_exported"
    loader = "transformers' from_pretrained" if made.merged else alone
    console.print(Text.assemble(f"Trial {made.trial} is in ", (str(made.folder), "bold")), soft_wrap=True)
    console.print(f"Reloaded with {loader}: its logits differ from the recorded ones by {made.difference:.1e} at most.")
    console.print(
        f"Next: read {made.folder / 'README.md'}, or train it again: python {made.folder / 'train.py'}", soft_wrap=True
    )


def record(study: StudyName, json: Json = False) -> None:
    """Bring the MLflow record of a study in step with the storage; runs that are missing come back, once."""
    from orchestrator.recorder import Recorder

    home = Home().create()
    store = Storage(home.storage_url).open(study)
    if home.is_driven(study):
        raise StudyLockedError(f"study {study!r} is running and records itself; `paretune record` is for afterwards")
    recorded = Recorder(home.tracking_uri, home.artifacts, store, home.study(study)).record_all()
    if json:
        print_json(recorded.__dict__)
    elif recorded.problem:
        console.print(recorded.problem, style="red", soft_wrap=True)
        raise typer.Exit(1)
    else:
        console.print(f"{recorded.runs} runs are recorded, {recorded.created} of them new.")


def doctor(json: Json = False) -> None:
    """Say what this machine has for Paretune, and what is missing."""
    from orchestrator.doctor import examine

    findings = examine(Home())
    if json:
        print_json([one.__dict__ for one in findings])
    else:
        styles = {"ok": "green", "note": "yellow", "missing": "red"}
        rows: list[list[str | Text]] = [[Text(one.state, styles[one.state]), one.name, one.text] for one in findings]
        console.print(table(["", "what", "found"], rows))
    if any(one.state == "missing" for one in findings):
        raise typer.Exit(1)
