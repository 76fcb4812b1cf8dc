"""The command line: `paretune VERB`. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from calibration.errors import CalibrationError
from orchestrator.cli import calibrating, estimating, maintenance, methods, profiling, reading, running, service
from orchestrator.installation import guard
from search_space.errors import CandidateError, InputError, ParetuneError, SpecError, StudyError


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"paretune {version('paretune')}")
        raise typer.Exit


app = typer.Typer(
    name="paretune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def about(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search PEFT architectures: Pareto fronts of accuracy, size and calibration, under budgets."""


for module in (running, profiling, reading, methods, estimating, maintenance, calibrating, service):
    module.register(app)

_BAD_INPUT = (SpecError, CandidateError, StudyError, InputError, CalibrationError)


def main() -> None:
    """Run the command line; errors that a user can mend are one message, not a traceback."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries to their programmers; ours come as errors or notes
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        guard()
        app()
    except (ParetuneError, CalibrationError) as error:
        print(f"paretune: {error}", file=sys.stderr)
        if os.environ.get("PARETUNE_DEBUG"):
            raise
        sys.exit(2 if isinstance(error, _BAD_INPUT) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
