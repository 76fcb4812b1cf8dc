"""`paretune run`, `resume` and `demo`."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.output import Json, StudyName, command, console, errors, print_json
from orchestrator.cli.progress import LiveTable
from orchestrator.home import Home
from orchestrator.spec import StudySpec
from orchestrator.storage import Storage, StudyStore
from orchestrator.study_file import read_file

StudyFile = Annotated[Path, typer.Argument(help="A study file (YAML or JSON).", metavar="STUDY_FILE")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be searched and what it costs; train nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(run)
    app.command()(resume)


def run(file: StudyFile, dry_run: DryRun = False, json: Json = False) -> None:
    """Run a study from its file; the same command continues it where it was interrupted."""
    spec = read_file(file)
    if dry_run:
        from orchestrator.cli.dry_run import show_estimate

        show_estimate(spec, json)
        return
    home = Home().create()
    _drive(Storage(home.storage_url).create(spec), home, json)


def resume(study: StudyName, json: Json = False) -> None:
    """Continue a study that is in the storage."""
    home = Home().create()
    _drive(Storage(home.storage_url).open(study), home, json)


def _drive(store: StudyStore, home: Home, json: bool) -> None:
    from orchestrator.cli.reading import front_data, show_front
    from orchestrator.study import run_study

    gc.freeze()  # what was imported stays: the collector need not look at all of it again and again
    spec: StudySpec = store.spec
    _announce(store)
    with LiveTable(spec, errors) as watcher:
        front = run_study(store, home, watcher)
    stopped = store.noted("status") == "stopped"
    if json:
        print_json(front_data(store, front, home))
    else:
        show_front(store, front, home)
        if stopped:
            console.print(Text.assemble("\nStopped. Continue with: ", (f"{command()} resume {store.name}", "bold")))
    if stopped:
        raise typer.Exit(130)


def _announce(store: StudyStore) -> None:
    trials = store.trials()
    if trials:
        done = sum(one.is_settled and one.state != "infeasible" for one in trials)
        paused = sum(one.state == "paused" for one in trials)
        said = "Continuing study ", f": {done} trials are done{f', {paused} are paused' if paused else ''}."
    else:
        said = "Study ", f": {store.spec.budgets.trials} trials, sampler {store.spec.search.sampler}."
    errors.print(Text.assemble(said[0], (store.name, "bold"), said[1]))
