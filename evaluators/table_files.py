"""What was traced once, kept on disk for every later process: a folder for each backbone and load, files of JSON in it.

A file holds what was found at once, under keys of what it depends on. It is written aside and renamed, and its name is
made of its keys: processes that find the same at the same time write the same. Nothing here is ever wrong for being
old: what a number depends on, versions and this code included, is in its key. So all of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from search_space.files import atomic_write

_PACKAGES = ("torch", "transformers", "peft")
_SOURCES = ("evaluators", "search_space")
_MOST_TABLES = 64


def key_of(what: Any) -> str:
    """Return the SHA-256 of JSON data, in hexadecimal."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def conditions(measures: bool) -> dict[str, Any]:
    """Return what a trace depends on beside the model and the load: versions, this code, and perhaps the processor.

    Args:
        measures: Whether products of matrices are measured for it, whose copies depend on processor and threads.
    """
    said: dict[str, Any] = {name: version(name) for name in _PACKAGES} | {"code": _code()}
    if measures:
        amx = bool(torch.cpu._is_amx_tile_supported())
        said["processor"] = [platform.machine(), torch.backends.cpu.get_cpu_capability(), amx, torch.get_num_threads()]
    return said


@cache
def _code() -> str:
    """Return what tells this code from any other version of it."""
    found = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _SOURCES:
        for file in sorted((root / package).rglob("*.py")):
            found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()


class TableFiles:
    """The table of one backbone and load.

    Args:
        root: Holds the tables of all; the ones that were added to last are kept.
        about: What all numbers of this table depend on, as JSON data.
    """

    def __init__(self, root: Path, about: Any) -> None:
        self._folder = root / key_of(about)
        self._read: set[str] = set()
        self._found: dict[str, Any] = {}

    def find(self, key: str) -> Any:
        """Return what is kept under a key, by this process or another; None where nothing is."""
        if key not in self._found:
            self._read_on()
        return self._found.get(key)

    def add(self, entries: Mapping[str, Any]) -> None:
        """Keep JSON data under keys. Where it cannot be written it is kept for this process alone."""
        self._found.update(entries)
        name = f"{key_of(sorted(entries))}.json"
        self._read.add(name)
        with suppress(OSError):
            if not self._folder.is_dir():
                self._make_room()
            atomic_write(self._folder / name, json.dumps(entries, separators=(",", ":")))

    def _read_on(self) -> None:
        """Read the files that were not there before."""
        with suppress(OSError):
            for file in sorted(self._folder.glob("*.json")):
                if file.name in self._read:
                    continue
                self._read.add(file.name)
                with suppress(ValueError, TypeError):  # damaged by something else: it is traced again, and written anew
                    self._found = {**json.loads(file.read_bytes()), **self._found}

    def _make_room(self) -> None:
        """Delete the tables that were added to longest ago, until there is room for one more."""
        with suppress(OSError):
            tables = sorted(self._folder.parent.iterdir(), key=lambda one: one.stat().st_mtime)
            for table in tables[: max(0, len(tables) - _MOST_TABLES + 1)]:
                shutil.rmtree(table, ignore_errors=True)
