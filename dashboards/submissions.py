"""Reading a submitted study: YAML or JSON, bounded, strict; and on a shared server, without files of the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboards.context import Settings
from orchestrator.spec import StudySpec, parse
from orchestrator.study_file import MOST_BYTES, read_text
from search_space.errors import Problem, SpecError

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/plain", "")
JSON_TYPES = ("application/json",)
_SOURCE = "study"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_BUILTIN_NAME = re.compile(r"builtin:[a-z0-9-]{1,64}")
_FILE_SUFFIX = re.compile(r"\.(csv|tsv|json|jsonl|ndjson|parquet|txt|gz|zip)$", re.IGNORECASE)


def read_study(body: bytes, content_type: str, settings: Settings) -> StudySpec:
    """Read a submitted study. Raises SpecError with every problem."""
    if len(body) > MOST_BYTES:
        raise SpecError([Problem("", f"larger than {MOST_BYTES // 1024} KiB")], _SOURCE)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError([Problem("", f"not UTF-8: {error.reason} at byte {error.start}")], _SOURCE) from None
    spec = parse(_read_json(text), _SOURCE) if content_type in JSON_TYPES else read_text(text, _SOURCE)
    check_paths(spec, settings)
    return spec


def check_paths(spec: StudySpec, settings: Settings) -> None:
    """Refuse files of the machine in studies that others may submit, unless they are in the folder opened for it.

    Raises:
        SpecError: With every path that is refused.
    """
    if not settings.shared:
        return
    refused = [where for where, name in _local_names(spec) if not _is_within(name, settings.data)]
    fix = "this server is shared and takes hub names and built-ins"
    fix += ", and files in the folder given by --data" if settings.data else "; start it with --data FOLDER to open one"
    if refused:
        raise SpecError([Problem(where, f"names a file or folder of the server; {fix}") for where in refused], _SOURCE)


def _local_names(spec: StudySpec) -> Iterator[tuple[str, str]]:
    """Yield what in a spec could be a path of this machine, with where it stands."""
    sources = {f"task.tasks.{name}" if name else "task": one for name, one in spec.task.sources.items()}
    named = [("model.name", spec.model.name)]
    named += [(f"{where}.dataset", one.dataset or "") for where, one in sources.items()]
    for where, name in named:
        hub = _BUILTIN_NAME.fullmatch(name) or (_HUB_NAME.fullmatch(name) and not _FILE_SUFFIX.search(name))
        if name and not hub:
            yield where, name
    for where, one in sources.items():
        for split, name in (one.files or {}).items():
            yield f"{where}.files.{split}", name


def _is_within(name: str, folder: Path | None) -> bool:
    """Whether a path leads into a folder once every link in it is followed."""
    if folder is None or "\0" in name:
        return False
    try:
        return Path(name).is_absolute() and Path(name).resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        return False


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise SpecError([Problem("", f"{place}: not JSON: {error.msg}")], _SOURCE) from None
    except ValueError as error:
        raise SpecError([Problem("", str(error))], _SOURCE) from None
    except RecursionError:
        raise SpecError([Problem("", "nested too deep")], _SOURCE) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON knows")
