"""`paretune serve`, `submit`, `status`, `watch` and `stop`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator.cli.output import Json, JsonLines, StudyName, console, print_json, print_json_line
from orchestrator.home import Home
from orchestrator.storage import Storage


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(serve)
    app.command()(stop)
    app.command()(submit)
    app.command()(status)
    app.command()(watch)


Url = Annotated[str | None, typer.Option(help="Address of the server; or set PARETUNE_URL.")]
_POLL_SECONDS = 2.0


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    token_file: Annotated[Path | None, typer.Option(help="File with the token; or set PARETUNE_TOKEN.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="Further name of this server; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that submitted studies may read files from.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Studies that run at the same time.")] = 1,
    json: Json = False,
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
    if json:
        print_json(ready.to_json())
    else:
        console.print(ready.text, soft_wrap=True)
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


def submit(
    file: Annotated[Path, typer.Argument(help="A study file (YAML or JSON).", metavar="STUDY_FILE")],
    url: Url = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: sent twice, it makes one study.")] = None,
    json: Json = False,
) -> None:
    """Submit a study to a server, which queues and runs it."""
    from orchestrator.client import Client
    from orchestrator.study_file import read_file

    spec = read_file(file)
    with Client(url) as client:
        answer = client.submit(spec, key)
        page = client.page(spec.name)
    if json:
        print_json(answer)
    else:
        said = f" is {answer['state']}. Watch it: {page}"
        console.print(Text.assemble("Study ", (spec.name, "bold"), said), soft_wrap=True)


def status(study: StudyName, url: Url = None, json: Json = False) -> None:
    """Say how a study stands on a server."""
    from orchestrator.client import Client

    with Client(url) as client:
        answer = client.study(study)
        page = client.page(study)
    if json:
        print_json(answer)
    else:
        console.print(f"{_line(answer)}\n{page}", soft_wrap=True)


def watch(study: StudyName, url: Url = None, json: JsonLines = False) -> None:
    """Follow a study on a server until it ends."""
    from orchestrator.client import Client

    shown = ""
    with Client(url) as client:
        while True:
            answer = client.study(study)
            if _line(answer) != shown:
                shown = _line(answer)
                print_json_line(answer) if json else console.print(shown, soft_wrap=True)
            if answer["state"] not in ("queued", "running"):
                return
            time.sleep(_POLL_SECONDS)


def _line(answer: dict[str, Any]) -> str:
    """Return how a study stands, in one line."""
    reason = f" ({answer['reason']})" if answer.get("reason") else ""
    return f"{answer['name']}: {answer['state']}{reason}; {answer['trials']} of {answer['trials_budget']} trials"
