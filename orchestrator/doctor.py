"""`paretune doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from orchestrator.home import Home
from orchestrator.installation import guard
from search_space.errors import ParetuneError, UnsupportedError
from search_space.quantities import format_bytes

_LEAST_DISK = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "missing"]
    text: str


def examine(home: Home) -> list[Finding]:
    """Look at everything that a study needs. What breaks while it is looked at is a finding, too."""
    looks = (_packages, _torch, _device, _bfloat16, _energy, _memory, _ray, _storage, _mlflow, _disk, _builtins, _hub)
    return [finding for look in looks for finding in _guarded(look, home)]


def _guarded(look: Callable[[Home], Iterator[Finding]], home: Home) -> list[Finding]:
    try:
        return list(look(home))
    except (ParetuneError, OSError, ImportError, RuntimeError) as error:
        return [Finding(look.__name__.strip("_"), "missing", f"{type(error).__name__}: {error}")]


def _packages(home: Home) -> Iterator[Finding]:
    guard()
    yield Finding("paretune", "ok", f"{importlib.metadata.version('paretune')}, its packages are its own")


def _torch(home: Home) -> Iterator[Finding]:
    names = ("torch", "transformers", "peft", "datasets", "optuna")
    yield Finding("libraries", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))


def _device(home: Home) -> Iterator[Finding]:
    import torch

    from evaluators.backbone import choose_machine
    from evaluators.spec import ModelSpec

    machine = choose_machine(ModelSpec(name="-"))
    name = torch.cuda.get_device_name() if machine.device.type == "cuda" else f"{os.cpu_count()} cores"
    yield Finding("device", "ok" if machine.device.type != "cpu" else "note", f"{machine.device.type}, {name}")


def _energy(home: Home) -> Iterator[Finding]:
    from evaluators.backbone import choose_machine
    from evaluators.energy import open_meter
    from evaluators.spec import ModelSpec

    try:
        yield Finding("energy", "ok", open_meter(choose_machine(ModelSpec(name="-")).device).name)
    except UnsupportedError as error:
        yield Finding("energy", "note", str(error))


def _bfloat16(home: Home) -> Iterator[Finding]:
    import torch

    from evaluators.backbone import choose_machine
    from evaluators.spec import ModelSpec

    machine = choose_machine(ModelSpec(name="-"))
    pays = machine.dtype == torch.bfloat16
    yield Finding(
        "bfloat16", "ok" if pays else "note", "pays, and is used" if pays else "does not pay here; float32 is used"
    )


def _memory(home: Home) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", "ok", format_bytes(total))


def _ray(home: Home) -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    where = f"cluster at {address}" if address else "started on this machine for each study"
    yield Finding("Ray", "ok", f"{importlib.metadata.version('ray')}, {where}")


def _storage(home: Home) -> Iterator[Finding]:
    from orchestrator.redaction import redact
    from orchestrator.storage import Storage

    home.create()
    studies = len(Storage(home.storage_url).names())
    yield Finding("storage", "ok", f"{redact(home.storage_url)}, {studies} studies")


def _mlflow(home: Home) -> Iterator[Finding]:
    from orchestrator.redaction import redact

    yield Finding("MLflow", "ok", f"{importlib.metadata.version('mlflow')}, {redact(home.tracking_uri)}")


def _disk(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(home.create().root).free
    yield Finding("disk", "ok" if free > _LEAST_DISK else "missing", f"{format_bytes(free)} free at {home.root}")


def _builtins(home: Home) -> Iterator[Finding]:
    from evaluators.builtin import examples, minilm_l6
    from evaluators.spec import BUILTIN, BUILTIN_DATA

    looks: dict[str, Callable[[], object]] = {"builtin:minilm-l6": minilm_l6}
    looks |= {BUILTIN + name: partial(examples, name) for name in BUILTIN_DATA}
    for name, look in looks.items():
        try:
            look()
            yield Finding(name, "ok", "there, with the right hash")
        except ParetuneError as error:
            yield Finding(name, "note", str(error))


def _hub(home: Home) -> Iterator[Finding]:
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True"):
        yield Finding("model hub", "note", "HF_HUB_OFFLINE is set: local folders, cached models and builtins only")
        return
    try:
        with socket.create_connection(("huggingface.co", 443), timeout=3):
            token = "with a token" if os.environ.get("HF_TOKEN") else "without a token"
            yield Finding("model hub", "ok", f"reachable, {token}")
    except OSError:
        yield Finding("model hub", "note", "not reachable: local folders, cached models and builtins only")
