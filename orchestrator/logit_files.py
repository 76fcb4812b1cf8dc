"""Logits and labels from anywhere: an exported folder, an NPZ file or a CSV file, read strictly and executed never."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from calibration.errors import CalibrationError
from calibration.rows import check_several_classes, check_several_classes_judged
from calibration.temperature import labelled_logits
from evaluators.evaluation import PREDICTIONS_FILE
from search_space.errors import InputError, did_you_mean, one_of

LABEL, GROUP, ID, SUBGROUP = "label", "group", "id", "subgroup"
_ROLES = {"calibration": "calibration", "validation": "validation, which the search chose by"}
_ARRAYS = ("logits", "labels", "groups", "ids", "subgroups")


@dataclass(frozen=True)
class LogitRows:
    """Labelled logits.

    Attributes:
        source: Where they come from, for messages.
        logits: Shape (n, k), float64; `-inf` outside a row's answer set.
        labels: Class indices of shape (n,).
        groups: What keeps rows together, shape (n,); None where each row stands alone.
        ids: Ids of the rows, shape (n,); None where there are none.
        subgroups: The name of each row's subgroup, shape (n,); None where there are none.
    """

    source: str
    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    groups: NDArray[np.generic] | None = None
    ids: NDArray[np.generic] | None = None
    subgroups: NDArray[np.generic] | None = None

    def at(self, chosen: NDArray[np.bool_]) -> LogitRows:
        """Return some of the rows."""
        beside = (None if one is None else one[chosen] for one in (self.groups, self.ids, self.subgroups))
        return LogitRows(self.source, self.logits[chosen], self.labels[chosen], *beside)


def read_export(folder: Path) -> tuple[LogitRows, LogitRows]:
    """Return the calibration rows and the validation rows of an exported candidate.

    Raises:
        InputError: The folder holds no predictions, or damaged ones.
        CalibrationError: They are not fit to use.
    """
    path = folder / PREDICTIONS_FILE
    if not path.exists():
        raise InputError(f"{folder} holds no {PREDICTIONS_FILE}; give a folder that `paretune export` wrote")
    try:
        arrays = safetensors.numpy.load_file(path)
        given = [
            (f"{path} ({name})", arrays[f"{role}_logits"], arrays[f"{role}_labels"]) for role, name in _ROLES.items()
        ]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise InputError(f"{path} lacks {error.args[0]!r}; export a candidate that was trained to the end") from error
    calibration, validation = (_checked(*one) for one in given)
    return _of_classes(calibration, check_several_classes), _of_classes(validation, check_several_classes_judged)


def read_judged_rows(path: Path) -> LogitRows:
    """Read labelled logits that a calibrator of other rows is judged on, as `read_rows` does.

    Raises:
        InputError: The file cannot be read, or lacks something.
        CalibrationError: What it holds is not labelled logits, or they are of one class.
    """
    return _of_classes(_read(path), check_several_classes_judged)


def read_rows(path: Path) -> LogitRows:
    """Read labelled logits to fit on from one file.

    An NPZ file holds `logits` (n, k) and `labels` (n,), and may hold `groups`, `ids` and `subgroups`; objects in it are
    refused. A CSV file names its columns in its first line: `label`, perhaps `group`, `id` and `subgroup`, and one
    column of logits for each class, in the order of the classes. A label is the number of its class, from 0, or the
    name of its column.

    Raises:
        InputError: The file cannot be read, or lacks something.
        CalibrationError: What it holds is not labelled logits, or they are of one class.
    """
    return _of_classes(_read(path), check_several_classes)


def _read(path: Path) -> LogitRows:
    if not path.is_file():
        raise InputError(f"{path} is not a file; give an exported folder, a .csv file or a .npz file")
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path} is neither .csv nor .npz; save logits with numpy.savez(file, logits=..., labels=...)")
    return readers[path.suffix.lower()](path)


def _read_npz(path: Path) -> LogitRows:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an NPZ file of plain arrays: {error}") from error
    for name in arrays:
        if name not in _ARRAYS:
            raise InputError(f"{path}: unknown array {name!r}; allowed: {one_of(_ARRAYS)}{did_you_mean(name, _ARRAYS)}")
    for name in ("logits", "labels"):
        if name not in arrays:
            raise InputError(f"{path} has no array {name!r}; it has {one_of(arrays) or 'none'}")
    beside = (arrays.get(name) for name in ("groups", "ids", "subgroups"))
    return _checked(str(path), arrays["logits"], arrays["labels"], *beside)


def _read_csv(path: Path) -> LogitRows:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    heads, rows = _columns(path, lines)
    names = [head for head in heads if head not in (LABEL, GROUP, ID, SUBGROUP)]
    cells = {head: [row[place] for row in rows] for place, head in enumerate(heads)}
    logits = np.array([[_number(path, line, name, cells[name][line]) for name in names] for line in range(len(rows))])
    labels = _labels(cells[LABEL], names)
    beside = (np.array(cells[name]) if name in cells else None for name in (GROUP, ID, SUBGROUP))
    return _checked(str(path), logits.reshape(len(rows), len(names)), labels, *beside)


def _columns(path: Path, lines: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the rows, each as wide as they are."""
    heads = [head.strip() for head in lines[0]] if lines else []
    if LABEL not in heads:
        raise InputError(f"{path}: the first line must name the columns, {LABEL!r} among them; it is {heads}")
    if len(set(heads)) != len(heads):
        raise InputError(f"{path}: a column stands twice in {heads}")
    rows = [row for row in lines[1:] if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heads):
            raise InputError(f"{path}: row {number} has {len(row)} cells; the first line names {len(heads)} columns")
    return heads, rows


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: row {line + 1} has {text!r} in column {name!r}; a logit is a number") from None


def _labels(texts: Sequence[str], names: Sequence[str]) -> NDArray[np.generic]:
    """Return class numbers; what is neither a number nor the name of a column is left for the check to refuse."""
    words = [text.strip() for text in texts]
    for read in (int, names.index, float):
        try:
            return np.array([read(word) for word in words])
        except ValueError:
            continue
    return np.array(words)


def _checked(
    source: str,
    logits: NDArray[np.generic],
    labels: NDArray[np.generic],
    groups: NDArray[np.generic] | None = None,
    ids: NDArray[np.generic] | None = None,
    subgroups: NDArray[np.generic] | None = None,
) -> LogitRows:
    """Check everything at the door, and name the source in what is wrong."""
    try:
        array, targets = labelled_logits(logits, labels)
    except CalibrationError as error:
        raise type(error)(f"{source}: {error}") from error
    for name, values in (("groups", groups), ("ids", ids), ("subgroups", subgroups)):
        if values is not None and values.shape != targets.shape:
            raise InputError(f"{source}: {name} have shape {values.shape}; one per row is needed, {targets.shape}")
    if ids is not None and len(np.unique(ids)) != len(ids):
        raise InputError(f"{source}: an id stands twice; rows that belong together share a group, not an id")
    return LogitRows(source, array, targets, groups, ids, subgroups)


def _of_classes(rows: LogitRows, check: Callable[[NDArray[np.int64]], None]) -> LogitRows:
    """Return rows that are of several classes, by one of the two checks of that."""
    try:
        check(rows.labels)
    except CalibrationError as error:
        raise type(error)(f"{rows.source}: {error}") from error
    return rows
