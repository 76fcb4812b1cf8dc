"""Forms: known names for one setting of a method."""

from __future__ import annotations

import pytest

from search_space.candidate import Part
from search_space.errors import NotationError
from search_space.forms import FORMS
from search_space.notation import parse, parse_part, write
from search_space.registry import methods
from search_space.unsupported import UNSUPPORTED


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_the_candidate_of_its_method(name: str) -> None:
    assert parse(name) == parse(FORMS[name])
    assert parse(write(parse(name))) == parse(name)


def test_a_form_has_a_name_of_its_own() -> None:
    assert not FORMS.keys() & {*methods(), *UNSUPPORTED}
    assert list(FORMS) == sorted(FORMS)


def test_the_other_knobs_and_the_layers_are_free() -> None:
    assert write(parse("houlsby(r=8)@[top:2]")).startswith("serial_adapter(r=8)@attention.output,mlp.down[top:2]")
    assert parse_part("dora(r=4)@mlp[top:1]") == parse_part("lora(r=4,use_dora=true)@mlp[top:1]")


def test_adapterdrop_leaves_the_lower_layers_out() -> None:
    part = parse_part("pfeiffer@[top:7]")
    assert isinstance(part, Part)
    assert part.placement.layers.indices(12) == tuple(range(5, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dora(use_dora=false)", r"dora is lora\(use_dora=true\): 'use_dora' cannot be set; use lora"),
        ("pfeiffer@attention.query", r"it has its own projections, mlp\.down; choose its layers"),
        ("houlsbi", r"there is no method 'houlsbi'.*did you mean 'houlsby'"),
    ],
)
def test_what_a_form_fixes_is_refused(text: str, message: str) -> None:
    with pytest.raises(NotationError, match=message):
        parse(text)
