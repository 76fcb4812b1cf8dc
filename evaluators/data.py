"""Data for the four roles: read, and divided without a text in two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.builtin import examples as builtin_examples
from evaluators.spec import BUILTIN, ROLES, SourceSpec, SplitSpec, TaskSpec
from evaluators.tasks import TaskColumns
from search_space.errors import DataError, did_you_mean, one_of

_DEFAULT_SHARE = 0.15
_FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Examples:
    """Texts with their labels.

    Attributes:
        texts: Each one text, or a pair.
        labels: Class indices.
        groups: What must stay together, or None.
        subgroups: The name of each example's subgroup, or None.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None = None
    subgroups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Return some of the examples, in the order of `indices`."""
        groups, subgroups = (one and tuple(one[i] for i in indices) for one in (self.groups, self.subgroups))
        labels = self.labels[np.asarray(indices, dtype=np.int64)]
        return Examples(tuple(self.texts[i] for i in indices), labels, groups, subgroups)


@dataclass(frozen=True)
class Task:
    """Examples of each role, and the names of the classes.

    Attributes:
        classes: Names of the classes, by index.
        roles: Examples of `train`, `validation`, `calibration` and `test`.
        length_bands: How many bands of length are its subgroups, where no column names any.
        tasks: Whose the classes are, where there are several tasks.
    """

    classes: tuple[str, ...]
    roles: dict[str, Examples]
    length_bands: int | None = None
    tasks: tuple[TaskColumns, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of every text and label of every role, in order."""
        digest = hashlib.sha256()
        for role in ROLES:
            one = self.roles[role]
            of_subgroups = [one.subgroups] if one.subgroups else []
            digest.update(json.dumps([role, one.texts, one.labels.tolist(), *of_subgroups]).encode())
        return digest.hexdigest()


def read_task(spec: TaskSpec) -> Task:
    """Read a data set and divide it into the four roles; several of them one by one, put together.

    Raises:
        DataError: One cannot be read, a column is missing, a label is unknown, or a role would be empty.
    """
    return _together({name: _read_one(one) for name, one in spec.tasks.items()}) if spec.tasks else _read_one(spec)


def _together(tasks: Mapping[str, Task]) -> Task:
    """Put tasks one behind the other: classes as `task/class`, and examples in the order of the tasks."""
    ends = np.cumsum([len(one.classes) for one in tasks.values()]).tolist()
    columns = tuple(
        TaskColumns(name, end - len(one.classes), end) for (name, one), end in zip(tasks.items(), ends, strict=True)
    )
    roles = {}
    for role in ROLES:
        each = [(one.roles[role], own.start) for one, own in zip(tasks.values(), columns, strict=True)]
        texts = tuple(text for examples, _ in each for text in examples.texts)
        roles[role] = Examples(texts, np.concatenate([examples.labels + start for examples, start in each]))
    names = tuple(f"{name}/{label}" for name, one in tasks.items() for label in one.classes)
    return Task(names, roles, tasks=columns)


def _read_one(spec: SourceSpec) -> Task:
    source, classes = _read_source(spec)
    roles = _divide(source, spec.splits)
    for role, one in roles.items():
        limit = spec.max_train if role == "train" else spec.max_evaluation
        if limit is not None and len(one) > limit:
            kept, _ = _draw(one, limit / len(one), spec.splits.seed)
            roles[role] = one.take(kept[:limit])
        if len(one) == 0:
            raise DataError(f"task.splits: no example is left for {role}")
    if len(classes) < 2:
        raise DataError(f"task.label: {spec.label!r} has one class only, {one_of(classes)}")
    for role in ("validation", "calibration"):
        found = np.unique(roles[role].labels)
        if len(found) < 2:
            raise DataError(
                f"task.splits: the {len(roles[role])} examples of {role} are all {classes[found[0]]!r}, and nothing "
                "can be calibrated on one class; give that role another split or a larger share"
            )
    return Task(classes, roles, spec.length_bands)


def _read_source(spec: SourceSpec) -> tuple[dict[str, Examples], tuple[str, ...]]:
    if spec.dataset and spec.dataset.startswith(BUILTIN):
        tables: dict[str, Any] = {"train": builtin_examples(spec.dataset.removeprefix(BUILTIN))}
        spec = spec.model_copy(update={"text": ("text",), "label": "label", "group": "group"})
    else:
        tables = _load_tables(spec)
    rows = {name: [_row(spec, name, index, row) for index, row in enumerate(table)] for name, table in tables.items()}
    labels, classes = _classes(tables, spec, rows)
    index = {label: position for position, label in enumerate(labels)}
    return {name: _examples(one, index) for name, one in rows.items()}, classes


def _load_tables(spec: SourceSpec) -> dict[str, Any]:
    import datasets  # imported here: it takes a second, and the builtin does without

    datasets.utils.logging.disable_progress_bar()
    files = dict(spec.files or {})
    if spec.dataset and Path(spec.dataset).suffix.lower() in _FORMATS:
        files = {"train": spec.dataset}
    try:
        if not files:
            return dict(datasets.load_dataset(spec.dataset, spec.config, revision=spec.revision))
        kinds = {_format(path) for path in files.values()}
        if len(kinds) > 1:
            raise DataError(f"task.files: one format for all files, not {one_of(sorted(kinds))}")
        tabs = {"sep": "\t"} if all(Path(path).suffix.lower() == ".tsv" for path in files.values()) else {}
        return dict(datasets.load_dataset(kinds.pop(), data_files=files, **tabs))
    except DataError:
        raise
    except Exception as error:
        # datasets raises many unrelated types for what is one thing to a user
        raise DataError(f"task.dataset: {spec.dataset or files} cannot be read: {error}") from error


def _format(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise DataError(f"task.files: {path!r} is not {one_of(_FORMATS)}{did_you_mean(suffix, _FORMATS)}")
    if not Path(path).is_file():
        raise DataError(f"task.files: there is no file {path!r}")
    return _FORMATS[suffix]


_Row = tuple[tuple[str, ...], str, str | None, str | None]
"""Text, label, what it stays together with, subgroup."""


def _row(spec: SourceSpec, split: str, index: int, row: Any) -> _Row:
    for column in (*spec.text, spec.label, *filter(None, (spec.group, spec.subgroup))):
        if column not in row:
            raise DataError(
                f"task: split {split!r} has no column {column!r}; it has {one_of(row)}{did_you_mean(column, row)}"
            )
        if row[column] is None:
            raise DataError(f"task: row {index} of split {split!r} has no {column}")
    group, subgroup = (str(row[column]) if column else None for column in (spec.group, spec.subgroup))
    return tuple(str(row[column]) for column in spec.text), str(row[spec.label]), group, subgroup


def _classes(
    tables: dict[str, Any], spec: SourceSpec, rows: dict[str, list[Any]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labels as the rows have them, and their names: the data set's own where it has them."""
    feature = getattr(next(iter(tables.values())), "features", {}).get(spec.label)
    names = getattr(feature, "names", None)
    if names:
        return tuple(map(str, range(len(names)))), tuple(names)
    found = {label for one in rows.values() for _, label, *_ in one if label != "-1"}
    labels = tuple(sorted(found, key=lambda label: (len(label), label) if label.lstrip("-").isdigit() else (0, label)))
    return labels, labels


def _examples(rows: list[_Row], index: dict[str, int]) -> Examples:
    known = [row for row in rows if row[1] in index]  # hub test sets without labels carry -1
    groups = tuple(group or "" for *_, group, _ in known) if known and known[0][2] is not None else None
    subgroups = tuple(name or "" for *_, name in known) if known and known[0][3] is not None else None
    labels = np.array([index[label] for _, label, *_ in known], dtype=np.int64)
    return Examples(tuple(text for text, *_ in known), labels, groups, subgroups)


def _divide(source: dict[str, Examples], spec: SplitSpec) -> dict[str, Examples]:
    named = {role: getattr(spec, role) for role in ROLES}
    roles: dict[str, Examples] = {}
    taken_by: dict[str, str] = {}
    for role, value in named.items():
        if isinstance(value, str) and value not in source:
            raise DataError(f"task.splits.{role}: there is no split {value!r}; it has {one_of(source)}")
        name = value if isinstance(value, str) else role
        if name in source and not isinstance(value, float) and len(source[name]):
            if name in taken_by:
                raise DataError(f"task.splits.{role}: the split {name!r} is {taken_by[name]} already; choose another")
            roles[role], taken_by[name] = source[name], role
    pool = roles.get("train") or source[next(iter(source))]
    shares = {role: value for role, value in named.items() if role not in roles and role != "train"}
    left = 1.0
    for number, (role, value) in enumerate(shares.items()):
        share = value if isinstance(value, float) else _DEFAULT_SHARE
        taken, rest = _draw(pool, min(share / left, 1.0), spec.seed + number)
        roles[role], pool = pool.take(taken), pool.take(rest)
        left -= share
    if isinstance(spec.train, float):
        pool = pool.take(_draw(pool, min(spec.train / max(left, 1e-9), 1.0), spec.seed + 101)[0])
    roles["train"] = pool
    return {role: roles[role] for role in ROLES}


def _draw(examples: Examples, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a share of the groups, stratified by the label of each group's first example. Returns taken and rest.

    Equal texts are one group, whatever the group column says.
    """
    if share >= 1:
        everything = np.arange(len(examples))
        return everything, everything[:0]
    generator = np.random.default_rng(seed)
    strata: dict[int, list[list[int]]] = {}
    for group_members in _grouped(examples):
        strata.setdefault(int(examples.labels[group_members[0]]), []).append(group_members)
    taken: list[int] = []
    debt = 0.0  # what rounding owes, carried from class to class so that the total is right
    for label in sorted(strata):
        groups = [strata[label][i] for i in generator.permutation(len(strata[label]))]
        wanted = share * sum(map(len, groups)) + debt
        count = 0
        for one in groups:
            if count + len(one) / 2 > wanted:
                break
            taken.extend(one)
            count += len(one)
        debt = wanted - count
    chosen = np.zeros(len(examples), dtype=bool)
    chosen[taken] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _grouped(examples: Examples) -> list[list[int]]:
    """Return the positions that stay together: of equal texts, of equal groups, and of chains of both."""
    texts = ["\x1f".join(text).strip().lower() for text in examples.texts]
    first: dict[tuple[str, str], int] = {}
    root = list(range(len(examples)))

    def find(position: int) -> int:
        while root[position] != position:
            root[position] = root[root[position]]
            position = root[position]
        return position

    for position, text in enumerate(texts):
        keys = [("text", text), *([("group", examples.groups[position])] if examples.groups else [])]
        for key in keys:
            one, other = find(first.setdefault(key, position)), find(position)
            root[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = {}
    for position in range(len(examples)):
        members.setdefault(find(position), []).append(position)
    return list(members.values())
