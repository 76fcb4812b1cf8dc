"""`paretune methods`: every column of the table, one method explained, and the same as JSON."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from orchestrator import cli
from search_space.forms import FORMS
from search_space.hybrids import NAMED, spelled_out
from search_space.notation import parse
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


@pytest.mark.parametrize("width", [80, 120])
def test_each_method_has_one_line_whatever_the_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = said(capsys).splitlines()
    assert lines[0].split("  ")[0] == "method"
    assert all(head in lines[0] for head in ("family", "merges", "to LoRA", "quantised", "tasks"))
    assert [line.split()[0] for line in lines[1 : 1 + len(methods())]] == list(methods())
    assert max(map(len, lines)) <= width
    assert len(lines) < len(methods()) + 45


def test_no_word_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = []
    for width in ("80", "2000"):
        monkeypatch.setenv("COLUMNS", width)
        words.append(sorted(said(capsys).split()))
    assert words[0] == words[1]


def test_methods_of_several_tasks_show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = {line.split()[0]: line for line in said(capsys).splitlines() if line.strip()}
    assert [name for name, line in rows.items() if line.rstrip().endswith("several")] == [
        name for name, one in methods().items() if one.several_tasks
    ]
    assert rows["lora"].rstrip().endswith("1, each")
    assert set(FORMS) | set(NAMED) <= rows.keys()


@pytest.mark.parametrize("name", [*FORMS, *NAMED, "lora(use_dora=true)", "lora(r=4) + ia3@mlp.down[top:1]"])
def test_forms_hybrids_and_notation_are_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = parse(spelled_out(name)).parts
    text, data = said(capsys, name), json.loads(said(capsys, name, "--json"))
    assert text.startswith(f"{name}: a {'hybrid' if len(parts) > 1 else 'form' if name in FORMS else 'method'}")
    assert all(f"\n{one.method}: {methods()[one.method].title}" in text for one in parts)
    assert parse(data["notation"]).parts == parts
    assert [one["name"] for one in data["parts"]] == [one.method for one in parts]
    assert all(one.keys() >= KEYS for one in data["parts"])


def test_what_a_form_sets_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(default false); here true" in " ".join(said(capsys, "dora").split())
    assert "; here attention.output,mlp.down" in " ".join(said(capsys, "houlsby").split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dorra", "there is no method 'dorra' (did you mean 'dora'?)"),
        ("xlora", "xlora cannot be searched: it mixes adapters"),
        ("lora(x=1)", "is no method, form, hybrid or notation: lora has no knob 'x'"),
    ],
)
def test_what_is_not_there_is_refused(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["paretune", "methods", name])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


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
