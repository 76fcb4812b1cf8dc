"""The short notation: what is written reads back equal, and everything else is refused with its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space.candidate import Candidate
from search_space.errors import CandidateError, NotationError
from search_space.notation import parse, parse_part, write, write_part, write_parts
from search_space.registry import methods
from tests.search_space.candidates import candidates


@given(candidates())
def test_what_is_written_reads_back_equal(candidate: Candidate) -> None:
    assert parse(write(candidate)) == candidate


@given(candidates())
def test_writing_again_gives_the_same_text(candidate: Candidate) -> None:
    assert write(parse(write(candidate))) == write(candidate)


@given(st.text(alphabet="lora()=@|+,/[]:. r8etmixqy0-", max_size=60))
def test_other_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        candidate = parse(text)
    except CandidateError:
        return
    assert parse(write(candidate)) == candidate


@pytest.mark.parametrize("name", list(methods()))
def test_a_method_alone_takes_every_default(name: str) -> None:
    candidate = parse(name)
    assert candidate.parts == (methods()[name].default_part(),)
    assert candidate.recipe.learning_rates == (methods()[name].learning_rate.default,)
    assert write_parts(candidate) == name


@pytest.mark.parametrize(
    "text",
    [
        "lora | lr=0.002",
        "lora(r=4) | lr=0.002",
        "lora(alpha=32,use_dora=true)@linear[top:3] | lr=1e-05",
        "lora(r=4/8/2)@attention.query,attention.value[first:3] | lr=0.002",
        "serial_adapter(activation=gelu) | lr=0.002",
        "full@[top:2] | lr=0.0001",
        "lora + bitfit | lr=0.001/0.005",
        "ia3 | lr=0.01 head_lr=0.1 weight_decay=0.5 label_smoothing=0.1 dropout=0.2",
    ],
)
def test_the_written_form_is_the_shortest(text: str) -> None:
    assert write(parse(text)) == text


def test_spaces_around_parts_and_knobs_are_free() -> None:
    assert parse("lora( r = 4 )+bitfit|lr=0.001/0.005") == parse("lora(r=4) + bitfit | lr=0.001/0.005")


def test_one_part_reads_and_writes_alone() -> None:
    assert write_part(parse_part(" lora(r=2)@mlp.down ")) == "lora(r=2)@mlp.down"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a part; write it as 'lora"),
        ("LoRA", "'LoRA' is not a part"),
        ("lora(r=4", "'lora\\(r=4' is not a part"),
        ("lora +", "'' is not a part"),
        ("lorra", "there is no method 'lorra'; allowed: .* \\(did you mean 'lora'\\?\\)"),
        ("lora(rank=4)", "lora has no knob 'rank'; allowed: 'r', 'alpha'"),
        ("lora(alpa=4)", "did you mean 'alpha'"),
        ("lora(r=4,r=8)", "'r=8' is not 'knob=value', or it is given twice"),
        ("lora(r)", "'r' is not 'knob=value'"),
        ("lora(r=4;alpha=8)", "'4;alpha=8' is not true, false, a number"),
        ("lora(r=True)", "'True' is not true, false, a number"),
        ("lora(r=0x10)", "'0x10' is not true, false"),
        ("lora(r=4/x)", "'x' is not a whole number"),
        ("lora(r=true)", "lora\\.r: True is not one of '1', '2', .* or any whole number from 1"),
        ("lora(r=8.0)", "lora\\.r: 8\\.0 is not one of"),
        ("lora(r=0)", "lora\\.r: 0 is not one of"),
        ("lora(use_dora=1)", "lora\\.use_dora: 1 is not one of"),
        ("serial_adapter(activation=tanh)", "serial_adapter\\.activation: 'tanh' is not one of 'relu', 'gelu', 'silu'"),
        ("lora@attention.qery", "'attention.qery' is not a projection.*did you mean 'attention.query'"),
        ("lora@attention.query[top:3", "the layers end with '\\]'"),
        ("lora@attention.query[upper:3]", "unknown layers 'upper:3'"),
        ("lora@mlp,mlp", "named more than once"),
        ("lora@[top:2]", "lora needs projections to be put on"),
        ("head@mlp", "head has its own place and takes no projections"),
        ("p_tuning@[top:2]", "p_tuning goes into all layers"),
        ("lora | rate=0.1", "'rate=0.1' is not a setting; allowed: 'lr', 'head_lr'"),
        ("lora | head_ir=0.1", "did you mean 'head_lr'"),
        ("lora | lr", "'lr' is not a setting"),
        ("lora | lr=fast", "'fast' is not a number"),
        ("lora | lr=nan", "'nan' is not a number"),
        ("lora | lr=0.1 lr=0.2", "'lr' is given twice"),
        ("lora | lr=0.1 dropout=0.2 dropout=0.3", "'dropout' is given twice"),
        ("lora | lr=0.1/0.2", "1 parts need 1 learning rates, not 2"),
        ("lora | lr=0", "learning rates must be positive"),
        ("lora | lr=1e999", "learning rates must be positive finite"),
        ("lora | dropout=1", "dropout must be in"),
        ("lora | lr=0.1 | lr=0.2", "'\\|' is not a setting"),
        ("lora(r=" + "9" * 19 + ")", "is not one of"),
        ("+".join(["lora"] * 1000), "notation longer than 4096 characters"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(NotationError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "lora(r=\u0668)",
        "lora(r=1/\u0662)@mlp[top:2]",
        "lora@mlp[top:\u0663]",
        "lora@mlp[group:\u0662/\u0664]",
        "lora | lr=\u0660.\u0660\u0660\u0661",
        "mask(density=\u0660.\u0665)",
    ],
)
def test_digits_are_those_of_ascii(text: str) -> None:
    with pytest.raises(CandidateError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["mask(density=0.003)", "diff_pruning(density=0.25)", "frod(sparse_rate=0.003)", "tinylora(weight_tying=0.25)"],
)
def test_a_share_may_be_any_number_between_two(text: str) -> None:
    assert write_parts(parse(text)) == text
    assert parse(write(parse(text))) == parse(text)


@pytest.mark.parametrize("value", ["1.5", "0.0", "1", "-0.5", "true", "1e300"])
def test_a_share_outside_is_refused_with_what_may_be_given(value: str) -> None:
    with pytest.raises(CandidateError, match=r"or any number from 1e-06 to 1\.0, with a point"):
        parse(f"mask(density={value})")
