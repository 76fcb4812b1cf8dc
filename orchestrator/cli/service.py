"""`paretune serve`, `submit`, `status`, `stop` and `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import Json, StudyName, console, print_json
from orchestrator.home import Home
from orchestrator.storage import Storage


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(serve)
    app.command()(stop)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    token_file: Annotated[Path | None, typer.Option(help="File with the token; or set PARETUNE_TOKEN.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="Further name of this server; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that submitted studies may read files from.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Studies that run at the same time.")] = 1,
) -> None:
    """Start the server: MLflow at /, the studies and their Pareto charts at /paretune/."""
    from orchestrator.server import execute, plan

    ready = plan(
        Home().create(),
        host=host,
        port=port,
        token_file=token_file,
        allowed_hosts=allowed_host or (),
        data=data,
        at_once=at_once,
    )
    console.print(ready.text, soft_wrap=True, markup=False)
    execute(ready)


def stop(study: StudyName, json: Json = False) -> None:
    """Ask a running study to stop; `paretune resume` continues it."""
    home = Home().create()
    store = Storage(home.storage_url).open(study)
    runs = home.is_driven(study)
    if runs:
        store.note("stop", True)
    if json:
        print_json({"study": study, "asked": runs})
    elif not runs:
        console.print(f"Study {study} is not running on this machine.")
    else:
        console.print(f"Study {study} is asked to stop; its finished trials are kept.")
