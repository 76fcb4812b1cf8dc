"""Tokens: padded in batches, the same from disk, every example seen, one order a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data import Examples, Task
from evaluators.spec import ROLES, TrainingSpec
from evaluators.tasks import TaskColumns
from evaluators.tokens import TokenFolder, Tokens, tokenise, write_tokens
from search_space.errors import DataError
from tests.evaluators.tiny import tiny_tokenizer

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=80)


def tokens_of(lengths: list[int]) -> Tokens:
    ids = tuple(tuple(range(3, 3 + length)) for length in lengths)
    return Tokens(ids, None, np.arange(len(lengths), dtype=np.int64), padding=9)


def task_of(texts: list[tuple[str, ...]]) -> Task:
    one = Examples(tuple(texts), np.arange(len(texts), dtype=np.int64) % 2)
    return Task(("no", "yes"), dict.fromkeys(ROLES, one))


def test_a_batch_is_padded_on_the_right_to_its_longest() -> None:
    batch = tokens_of([2, 4, 1]).batch([0, 2], CPU)
    assert batch.inputs["input_ids"].tolist() == [[3, 4], [3, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.labels.tolist() == [0, 2]
    assert "token_type_ids" not in batch.inputs
    assert len(batch) == 2


@given(LENGTHS, st.integers(1, 33))
def test_in_order_gives_every_example_once_the_longest_first(lengths: list[int], size: int) -> None:
    seen: list[int] = []
    for indices, batch in tokens_of(lengths).in_order(size, CPU):
        assert len(batch) == len(indices) <= size
        seen += indices
    assert sorted(seen) == list(range(len(lengths)))
    assert [lengths[i] for i in seen] == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 33), st.integers(0, 2**32))
def test_shuffled_batches_are_full_and_without_repeats(lengths: list[int], size: int, seed: int) -> None:
    per_pass = len(lengths) // min(size, len(lengths))
    one_pass = list(islice(tokens_of(lengths).shuffled(size, seed), per_pass))
    assert all(len(batch) == min(size, len(lengths)) for batch in one_pass)
    assert max(Counter(i for batch in one_pass for i in batch).values()) == 1


def test_shuffled_covers_everything_the_longest_included() -> None:
    tokens = tokens_of(list(range(1, 61)))
    seen = Counter(i for batch in islice(tokens.shuffled(32, 0), 40) for i in batch)
    assert set(seen) == set(range(60))
    assert min(seen.values()) > 8


def test_shuffled_puts_like_lengths_together() -> None:
    lengths = [1 + n % 10 for n in range(400)]
    spreads = [
        max(lengths[i] for i in batch) - min(lengths[i] for i in batch)
        for batch in islice(tokens_of(lengths).shuffled(8, 0), 50)
    ]
    assert max(spreads) <= 1


def test_the_seed_decides_the_order() -> None:
    tokens = tokens_of([3] * 50)
    orders = [list(islice(tokens.shuffled(8, seed), 20)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("pairs", [False, True])
def test_the_folder_gives_back_the_tokens(tmp_path: Path, pairs: bool) -> None:
    texts = [
        ("who", "when is it")[: 1 + pairs],
        ("what is the city", "a")[: 1 + pairs],
        ("why", "the man")[: 1 + pairs],
    ]
    tokenizer, training = tiny_tokenizer(tmp_path / "tokenizer"), TrainingSpec()
    made = tokenise(task_of(texts), tokenizer, training)
    folder = write_tokens(task_of(texts), tokenizer, training, tmp_path / "tokens")
    again = TokenFolder.open(tmp_path / "tokens")

    assert again == folder
    assert again.classes == ("no", "yes")
    assert again.sha256 == task_of(texts).sha256
    for role in ROLES:
        read = again.read(role)
        assert (read.ids, read.types, read.padding) == (made[role].ids, made[role].types, made[role].padding)
        assert read.labels.tolist() == made[role].labels.tolist()
        assert again.longest[role] == read.longest
        assert again.examples[role] == 3
    assert (again.read("train").types is not None) == pairs


def test_bands_of_length_are_subgroups(tmp_path: Path) -> None:
    """Nine texts of one to nine words and two special tokens, in three bands that hold as many."""
    words = ["who", "is", "the", "first", "new", "man", "in", "a", "city"]
    task = replace(task_of([(" ".join(words[: count + 1]),) for count in range(9)]), length_bands=3)
    tokens = tiny_tokenizer(tmp_path)
    folder = write_tokens(task, tokens, TrainingSpec(max_length=16), tmp_path / "tokens")
    assert set(folder.subgroups) == {"up to 5 tokens", "6 to 8 tokens", "from 9 tokens"}
    found = folder.read("test").subgroups
    assert found is not None
    lengths = [len(row) for row in folder.read("test").ids]
    assert found.tolist() == [folder_band(length) for length in lengths]
    assert TokenFolder.open(tmp_path / "tokens") == folder


def folder_band(length: int) -> str:
    return "up to 5 tokens" if length <= 5 else "6 to 8 tokens" if length <= 8 else "from 9 tokens"


def grouped(names: tuple[str, ...], tasks: tuple[TaskColumns, ...] = ()) -> Task:
    one = Examples((("who is",), ("the man",), ("what is",)), np.array([0, 1, 0]), groups=names)
    return Task(("no", "yes"), dict.fromkeys(ROLES, one), tasks=tasks)


def test_groups_have_one_number_in_all_roles_and_stand_as_the_tokens_do(tmp_path: Path) -> None:
    folder = write_tokens(grouped(("a", "b", "a")), tiny_tokenizer(tmp_path), TrainingSpec(), tmp_path)
    for role in ROLES:
        assert folder.read(role).groups.tolist() == [0, 1, 0]
    tasks = (TaskColumns("first", 0, 1), TaskColumns("second", 1, 2))
    folder = write_tokens(grouped(("a", "b", "a"), tasks), tiny_tokenizer(tmp_path), TrainingSpec(), tmp_path / "tasks")
    assert folder.read("validation").labels.tolist() == [0, 0, 1]
    assert folder.read("validation").groups.tolist() == [0, 0, 1]


def test_rows_that_stand_alone_have_no_groups(tmp_path: Path) -> None:
    task = grouped(("a", "b", "c"))
    alone = {role: replace(one, groups=tuple(f"{role} {at}" for at in range(3))) for role, one in task.roles.items()}
    folder = write_tokens(replace(task, roles=alone), tiny_tokenizer(tmp_path), TrainingSpec(), tmp_path)
    assert folder.read("calibration").groups is None


def test_subgroups_of_the_data_go_with_their_examples(tmp_path: Path) -> None:
    names = {role: replace(task_of([("who is",), ("the man",)]).roles[role], subgroups=("x", role)) for role in ROLES}
    task = Task(("no", "yes"), names)
    folder = write_tokens(task, tiny_tokenizer(tmp_path), TrainingSpec(max_length=16), tmp_path / "tokens")
    for role in ROLES:
        found = folder.read(role).subgroups
        assert found is not None
        assert found.tolist() == ["x", role]
    without = write_tokens(
        task_of([("who is",), ("the man",)]), tiny_tokenizer(tmp_path), TrainingSpec(max_length=16), tmp_path / "other"
    )
    assert without.read("test").subgroups is None
    assert task.sha256 != task_of([("who is",), ("the man",)]).sha256


def test_long_texts_are_cut(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    made = tokenise(task_of([("who " * 40,)]), tokenizer, TrainingSpec(max_length=16))
    assert made["train"].longest == 16


@pytest.mark.parametrize(
    ("texts", "end", "message"),
    [
        (
            [("who is",), ("who [SEP] is",), ("the man",)],
            3,
            r"4 of 12 examples hold the end token '\[SEP\]'",
        ),
        ([("who is",), ("the man",)], 0, r"end token '\[PAD\]', and its tokenizer ends no text with it"),
    ],
)
def test_texts_that_a_model_could_not_read_at_their_end_are_refused(
    tmp_path: Path, texts: list[tuple[str, ...]], end: int, message: str
) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    with pytest.raises(DataError, match=message):
        write_tokens(task_of(texts), tokenizer, TrainingSpec(), tmp_path / "tokens", end)
    assert not (tmp_path / "tokens").exists()
    write_tokens(task_of(texts), tokenizer, TrainingSpec(), tmp_path / "tokens")


def test_each_of_several_tasks_has_its_own_number_of_end_tokens(tmp_path: Path) -> None:
    """Those of pairs are two; a batch is of one task."""
    one = Examples((("who is",), ("who is", "the man")), np.arange(2, dtype=np.int64))
    tasks = TaskColumns("single", 0, 1), TaskColumns("pairs", 1, 2)
    task = Task(("a", "b"), dict.fromkeys(ROLES, one), tasks=tasks)
    tokens = write_tokens(task, tiny_tokenizer(tmp_path), TrainingSpec(), tmp_path / "tokens", 3)
    assert [ids.count(3) for ids in tokens.read("train").ids] == [1, 2]


def test_a_folder_without_its_description_is_not_open(tmp_path: Path) -> None:
    write_tokens(task_of([("who",)]), tiny_tokenizer(tmp_path / "tokenizer"), TrainingSpec(), tmp_path / "tokens")
    (tmp_path / "tokens" / "task.json").unlink()
    with pytest.raises(FileNotFoundError):
        TokenFolder.open(tmp_path / "tokens")
