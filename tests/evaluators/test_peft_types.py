"""Every type that peft has is a method, or stands among the unsupported with its reason."""

from __future__ import annotations

from peft.utils import PeftType

from evaluators.tuners.registration import TUNERS
from search_space.registry import methods
from search_space.unsupported import UNSUPPORTED

OURS = {name.upper() for name, _, _ in TUNERS}
PEFTS = {member.name for member in PeftType} - OURS


def test_peft_has_as_many_types_as_were_read() -> None:
    assert len(PEFTS) == 45


def test_each_is_a_method_or_has_a_reason_and_not_both() -> None:
    searched = {one.peft_type for one in methods().values()} - OURS - {""}
    refused = {name.upper() for name in UNSUPPORTED}
    assert searched | refused == PEFTS
    assert not searched & refused


def test_each_tuner_of_ours_is_searched_but_the_reference() -> None:
    assert OURS - {one.peft_type for one in methods().values()} == {"FULL"}


def test_a_reason_says_more_than_no() -> None:
    assert all(len(reason.split()) > 5 for reason in UNSUPPORTED.values())
