"""`paretune methods`: every column of the table, one method explained, and the same as JSON."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from orchestrator import cli
from search_space.registry import methods

KEYS = {"name", "family", "knobs", "paper", "merges_on", "to_lora", "quantised", "tasks"}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["paretune", "methods", *words])
        with suppress(SystemExit):
            cli.main()
    return capsys.readouterr().out


def test_all_methods_have_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(said(capsys, "--json"))["methods"]
    assert [one["name"] for one in known] == list(methods())
    assert all(one.keys() >= KEYS for one in known)


def test_the_table_has_their_heads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    text = said(capsys)
    assert all(head in text for head in ("family", "knobs", "paper", "merges on", "to LoRA", "quantised", "tasks"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loftq", ("quantised weights", "it is one")),
        ("mask", ("not on nf4", "quantised weight")),
        ("vera", ("not on gpt2", "cannot wrap")),
    ],
)
def test_one_is_explained(name: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(capsys, name).split())
    assert all(word in text for word in words)
    assert ("not on bert" in text) is False
