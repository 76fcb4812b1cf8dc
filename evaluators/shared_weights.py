"""Weights in the type that they are used in, written once for all processes of a node to map.

What a file holds in another type is converted by whoever reads it, and is that process's own memory. The first process
of a study that comes converts and writes a copy; it and all that follow map the copy, and share its pages.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_REAL = ("F16", "BF16", "F32", "F64")


def weight_files(source: str, revision: str) -> tuple[Path, ...]:
    """Return the safetensors of a model, fetched if they are not there; none where they are not found.

    Args:
        source: Folder or hub name.
        revision: Of the hub's repository.
    """
    try:
        for name in (_ONE_FILE, _INDEX):
            found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
            if found is not None:
                shards = get_checkpoint_shard_files(source, found, revision=revision)[0] if name == _INDEX else [found]
                return tuple(Path(one).resolve() for one in shards)
    except (OSError, ValueError):  # the loading that follows says it better
        return ()
    return ()


def are_of(files: tuple[Path, ...], dtype: torch.dtype) -> bool:
    """Whether all real numbers of some safetensors are of a type, so that they are mapped as they are.

    Raises:
        SafetensorError: One cannot be read.
    """
    found: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118  (it is no mapping)
    return found & set(_REAL) <= {_TYPES[dtype]}


def key_of(files: tuple[Path, ...], dtype: torch.dtype, config: str) -> str:
    """Return a name that another file, another content of it, type or configuration would not have."""
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    about = json.dumps([stats, str(dtype), config, transformers.__version__])
    return hashlib.sha256(about.encode()).hexdigest()[:32]


def written_once(folder: Path, key: str, write: Callable[[Path], bool]) -> Path | None:
    """Return the folder of a copy, which the first process to come writes while the others wait.

    Args:
        folder: Holds the copies of a study.
        key: Of this copy.
        write: Writes it into a folder; says whether it may be used.

    Returns:
        None where it cannot be written, for lack of room perhaps, or may not be used. Every process then converts for
        itself, which takes memory and changes no number.
    """
    copy = folder / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{key}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                _write_aside(copy, write)
        return copy if any(copy.glob("*.safetensors")) else None
    except OSError:
        return None


def _write_aside(copy: Path, write: Callable[[Path], bool]) -> None:
    """Write a copy, and give it its name when it is whole. One that cannot be used is an empty folder."""
    aside = Path(tempfile.mkdtemp(dir=copy.parent, prefix=f".{copy.name}."))
    try:
        if not _is_written(aside, write):
            for file in aside.iterdir():
                file.unlink()
        for file in aside.iterdir():
            _sync(file)
        aside.rename(copy)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _is_written(aside: Path, write: Callable[[Path], bool]) -> bool:
    try:
        return write(aside)
    except (OSError, ValueError, RuntimeError, SafetensorError):  # no room, or a layout that is not written back
        return False


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
