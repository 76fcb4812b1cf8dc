"""Tokens: made once for a study, kept in files that its actors share, served in batches by length."""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.data import Examples, Task
from evaluators.spec import ROLES, TrainingSpec
from evaluators.tasks import TaskColumns
from search_space.errors import DataError
from search_space.files import atomic_write

_POOL = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class Batch:
    """A padded batch, of one task where there are several.

    Attributes:
        inputs: What the model takes. Shapes: [examples, tokens], but for the number of the task, `task_ids`.
        labels: Class indices among the task's own classes, shape [examples].
        columns: The task's own columns of the logits: from, and up to; all of them where there is one task.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    columns: tuple[int, int | None] = (0, None)

    def __len__(self) -> int:
        return len(self.labels)

    def own(self, logits: Tensor) -> Tensor:
        """Return the task's own columns of logits, [examples, classes]."""
        return logits[:, slice(*self.columns)]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one role, made once for a study.

    Attributes:
        ids: Token ids of each example, without padding.
        types: Segment ids of each example, or None where the model has none.
        labels: Class indices, among the classes of all tasks.
        padding: Id of the padding token.
        subgroups: The name of each example's subgroup, or None where the study has none.
        tasks: Whose the classes are, where there are several tasks.
        groups: A number for what each example stays together with, the same in all roles, or None.
    """

    ids: tuple[tuple[int, ...], ...]
    types: tuple[tuple[int, ...], ...] | None
    labels: NDArray[np.int64]
    padding: int
    subgroups: NDArray[np.str_] | None = None
    tasks: tuple[TaskColumns, ...] = ()
    groups: NDArray[np.int64] | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(map(len, self.ids))

    def wasted(self, groups: Sequence[Sequence[int]]) -> float:
        """Return the share of padding among the tokens of some batches, each padded to its longest example."""
        lengths = [[len(self.ids[i]) for i in group] for group in groups]
        return 1.0 - sum(map(sum, lengths)) / sum(max(group) * len(group) for group in lengths)

    def batch(self, indices: Sequence[int], device: torch.device) -> Batch:
        """Return some examples of one task, padded on the right to the longest of them.

        Raises:
            ValueError: They are of several tasks.
        """
        width = max(len(self.ids[i]) for i in indices)
        inputs = {"input_ids": _padded([self.ids[i] for i in indices], width, self.padding)}
        inputs["attention_mask"] = _padded([(1,) * len(self.ids[i]) for i in indices], width, 0)
        if self.types is not None:
            inputs["token_type_ids"] = _padded([self.types[i] for i in indices], width, 0)
        labels = self.labels[np.asarray(indices)]
        columns: tuple[int, int | None] = (0, None)
        if self.tasks:
            number = self._task_of(labels)
            inputs["task_ids"] = torch.full((len(labels),), number)
            columns = self.tasks[number].start, self.tasks[number].stop
        on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
        return Batch(on_device, torch.from_numpy(labels - columns[0]).to(device), columns)

    def _task_of(self, labels: NDArray[np.int64]) -> int:
        found = [number for number, one in enumerate(self.tasks) if one.rows(labels).all()]
        if not found:
            raise ValueError("a batch holds examples of one task")
        return found[0]

    def in_order(self, size: int, device: torch.device) -> Iterator[tuple[list[int], Batch]]:
        """Yield every example once, the longest first, each batch with the positions that it holds."""
        for indices in self.by_length(size):
            yield indices, self.batch(indices, device)

    def by_length(self, size: int, rows: Iterable[int] | None = None) -> list[list[int]]:
        """Return the positions of every example once, or of some, the longest first, in batches of one task each."""
        chosen = None if rows is None else set(map(int, rows))
        batches = []
        for members in self._members:
            wanted = [one for one in members.tolist() if chosen is None or one in chosen]
            order = sorted(wanted, key=lambda i: -len(self.ids[i]))
            batches += [order[start : start + size] for start in range(0, len(order), size)]
        return sorted(batches, key=lambda batch: -len(self.ids[batch[0]]))

    @cached_property
    def _members(self) -> list[NDArray[np.int64]]:
        """Positions of the examples of each task; of all where there is one."""
        if not self.tasks:
            return [np.arange(len(self.ids))]
        return [np.flatnonzero(one.rows(self.labels)) for one in self.tasks]

    def shuffled(self, size: int, seed: int) -> Iterator[list[int]]:
        """Yield the positions of training batches for ever: a new order each pass, like lengths together.

        Each batch is of one task. In a pass the batches of all tasks come in a random order, so that tasks take turns
        in proportion to their examples (Liu et al. 2019, arXiv:1901.11504, algorithm 1).
        """
        generator = np.random.default_rng(seed)
        while True:
            yield from self._pass(size, generator)

    def first_pass(self, size: int, seed: int) -> list[list[int]]:
        """Return the batches of the first pass of `shuffled`, and last ones of the examples that it leaves out."""
        batches = self._pass(size, np.random.default_rng(seed))
        used = {position for batch in batches for position in batch}
        left = [[position for position in members.tolist() if position not in used] for members in self._members]
        return [*batches, *filter(None, left)]

    def _pass(self, size: int, generator: np.random.Generator) -> list[list[int]]:
        batches: list[list[int]] = []
        for members in self._members:
            batches += self._pass_over(members, min(size, len(members)), generator)
        return [batches[position] for position in generator.permutation(len(batches))]

    def _pass_over(self, members: NDArray[np.int64], size: int, generator: np.random.Generator) -> Iterator[list[int]]:
        order = generator.permutation(members)
        for start in range(0, len(order), size * _POOL):
            pool = order[start : start + size * _POOL].tolist()
            whole = len(pool) - len(pool) % size  # what is left over is left by chance, before lengths are looked at
            pool = sorted(pool[:whole], key=lambda i: len(self.ids[i]))
            yield from (pool[at : at + size] for at in range(0, whole, size))


def tokenise(task: Task, tokenizer: Any, training: TrainingSpec) -> dict[str, Tokens]:
    """Tokenise every role of a task, cutting at `training.max_length` tokens."""
    return {role: _tokenise_tasks(one, task.tasks, tokenizer, training.max_length) for role, one in task.roles.items()}


def _tokenise_tasks(examples: Examples, tasks: tuple[TaskColumns, ...], tokenizer: Any, max_length: int) -> Tokens:
    """Tokenise one role; each of several tasks by itself, for some have pairs of texts."""
    if not tasks:
        return _tokenise(examples, tokenizer, max_length)
    each = [_tokenise(one, tokenizer, max_length) for one in _of_tasks(examples, tasks)]
    types = None
    if any(one.types is not None for one in each):
        types = tuple(row for one in each for row in one.types or ((0,) * len(ids) for ids in one.ids))
    labels = np.concatenate([one.labels for one in each])
    return Tokens(tuple(row for one in each for row in one.ids), types, labels, each[0].padding, tasks=tasks)


def _of_tasks(examples: Examples, tasks: tuple[TaskColumns, ...]) -> list[Examples]:
    """Return the examples of each task, in the order in which tokens stand; all of them where there is one."""
    return [examples.take(np.flatnonzero(one.rows(examples.labels))) for one in tasks] or [examples]


def _tokenise(examples: Examples, tokenizer: Any, max_length: int) -> Tokens:
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    limit = min(max_length, getattr(tokenizer, "model_max_length", max_length))
    encoded = tokenizer(*columns, truncation=True, max_length=limit, padding=False)
    types = encoded.get("token_type_ids") if len(columns) == 2 else None
    return Tokens(
        ids=tuple(map(tuple, encoded["input_ids"])),
        types=tuple(map(tuple, types)) if types else None,
        labels=examples.labels,
        padding=tokenizer.pad_token_id or 0,
    )


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return torch.from_numpy(padded)


@dataclass(frozen=True)
class TokenFolder:
    """The tokens of a study on disk: one file a role, so that nothing but the last phase opens the test split.

    Attributes:
        folder: Where.
        classes: Names of the classes.
        sha256: Digest of the texts, labels and roles.
        examples: Number of examples of each role.
        longest: Tokens of the longest example of each role.
        subgroups: Names of the subgroups, by number.
        tasks: Whose the classes are, where there are several tasks.
    """

    folder: Path
    classes: tuple[str, ...]
    sha256: str
    examples: dict[str, int]
    longest: dict[str, int]
    subgroups: tuple[str, ...] = ()
    tasks: tuple[TaskColumns, ...] = ()

    def read(self, role: str) -> Tokens:
        """Read one role."""
        arrays = safetensors.numpy.load_file(self.folder / f"{role}.safetensors")
        types = _split(arrays["types"], arrays["lengths"]) if "types" in arrays else None
        names = np.array(self.subgroups)[arrays["subgroups"]] if self.subgroups else None
        ids, padding = _split(arrays["ids"], arrays["lengths"]), int(arrays["padding"][0])
        return Tokens(ids, types, arrays["labels"], padding, names, self.tasks, arrays.get("groups"))

    @classmethod
    def open(cls, folder: Path) -> TokenFolder:
        """Open a folder that `write_tokens` wrote. Raises FileNotFoundError."""
        about = json.loads((folder / "task.json").read_text())
        about |= {name: tuple(about[name]) for name in ("classes", "subgroups") if name in about}
        about["tasks"] = tuple(TaskColumns(**one) for one in about.get("tasks", ()))
        return cls(folder, **about)


def write_tokens(
    task: Task, tokenizer: Any, training: TrainingSpec, folder: Path, end: int | None = None
) -> TokenFolder:
    """Tokenise a task and write it; the description is written last, so a folder that has it is whole.

    Args:
        task: The examples of all roles.
        tokenizer: The model's.
        training: Says where texts are cut.
        folder: Where.
        end: The token at whose place the model reads the class; None where it reads it elsewhere.

    Raises:
        DataError: Examples of one task do not have the end token equally often, or have none.
    """
    tokens, groups = tokenise(task, tokenizer, training), _groups(task)
    if end is not None:
        _require_ends(tokens, task.tasks, end, tokenizer.convert_ids_to_tokens(end))
    subgroups = _subgroups(task, tokens)
    names = sorted(set().union(*subgroups.values()), key=lambda name: (len(name), name)) if subgroups else []
    for role, one in tokens.items():
        arrays = {
            "ids": np.concatenate([np.array(row, dtype=np.int32) for row in one.ids]),
            "lengths": np.array([len(row) for row in one.ids], dtype=np.int32),
            "labels": one.labels,
            "padding": np.array([one.padding], dtype=np.int64),
        }
        if one.types is not None:
            arrays["types"] = np.concatenate([np.array(row, dtype=np.int32) for row in one.types])
        if role in groups:
            arrays["groups"] = np.array(groups[role], dtype=np.int64)
        if subgroups:
            arrays["subgroups"] = np.array([names.index(name) for name in subgroups[role]], dtype=np.int64)
        atomic_write(folder / f"{role}.safetensors", safetensors.numpy.save(arrays))
    about = {
        "classes": list(task.classes),
        "sha256": task.sha256,
        "examples": {role: len(tokens[role].ids) for role in ROLES},
        "longest": {role: tokens[role].longest for role in ROLES},
        "subgroups": names,
        "tasks": [asdict(one) for one in task.tasks],
    }
    atomic_write(folder / "task.json", json.dumps(about, indent=1))
    return TokenFolder.open(folder)


def _require_ends(tokens: Mapping[str, Tokens], tasks: tuple[TaskColumns, ...], end: int, name: str) -> None:
    """Refuse examples that could not stand in one batch, whose end tokens the model counts."""
    for task in tasks or (None,):
        counts = Counter(
            ids.count(end)
            for one in tokens.values()
            for ids, own in zip(one.ids, task.rows(one.labels) if task else np.ones(len(one.ids)), strict=True)
            if own
        )
        usual, most = counts.most_common(1)[0]
        if not usual:
            raise DataError(
                f"the model reads the class at the end token {name!r}, and its tokenizer ends no text with it"
            )
        if odd := counts.total() - most:
            raise DataError(
                f"{odd} of {counts.total()} examples hold the end token {name!r} in their text, at which the model "
                "reads the class; remove it from them"
            )


def _groups(task: Task) -> dict[str, list[int]]:
    """Return a number for the group of each example by role, as tokens are ordered; nothing where all are alone."""
    numbers: dict[str, int] = {}
    found = {}
    for role, examples in task.roles.items():
        names = [name for one in _of_tasks(examples, task.tasks) for name in one.groups or ()]
        if names:
            found[role] = [numbers.setdefault(name, len(numbers)) for name in names]
    return found if len(numbers) < sum(map(len, found.values())) else {}


def _subgroups(task: Task, tokens: Mapping[str, Tokens]) -> dict[str, list[str]]:
    """Return the subgroup of each example by role: those of the data, or bands of length; nothing where there are none.

    The bands hold about as many training examples each; where many are of one length there are fewer bands.
    """
    if task.length_bands is None:
        return {role: list(one.subgroups) for role, one in task.roles.items() if one.subgroups is not None}
    lengths = {role: [len(row) for row in one.ids] for role, one in tokens.items()}
    shares = np.arange(1, task.length_bands) / task.length_bands
    ends = np.unique(np.quantile(lengths["train"], shares, method="lower").astype(int)).tolist()
    bands = [f"up to {ends[0]} tokens", *(f"{a + 1} to {b} tokens" for a, b in itertools.pairwise(ends))]
    bands.append(f"from {ends[-1] + 1} tokens")
    return {role: [bands[bisect_left(ends, length)] for length in one] for role, one in lengths.items()}


def _split(flat: NDArray[np.int32], lengths: NDArray[np.int32]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row.tolist()) for row in np.split(flat, np.cumsum(lengths)[:-1]))
