"""Hybrids: named ones, and those whose methods cannot share a model."""

from __future__ import annotations

import pytest

from search_space import hybrids
from search_space.errors import UnsupportedError
from search_space.hybrids import NAMED, require_sharing
from search_space.registry import method
from search_space.space import bind
from search_space.spec import SpaceSpec, presets
from tests.search_space.test_space import space_of, tiny_anatomy


@pytest.mark.parametrize("name", NAMED)
def test_a_named_hybrid_is_its_methods(name: str) -> None:
    space = space_of(methods={}, hybrids=[name])
    assert [one.methods for one in space.compositions] == [tuple(NAMED[name].split(" + "))]


@pytest.mark.parametrize("name", list(presets()))
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_preset_leaves_out_what_a_model_cannot_carry(name: str, kind: str) -> None:
    space = bind(SpaceSpec(preset=name), tiny_anatomy(4, kind))  # type: ignore[arg-type]
    assert space.size > 0
    assert kind == "linear" or "vera" not in space.parts


def test_everything_is_every_method_beside_the_references() -> None:
    space = space_of(preset="everything")
    assert {"adalora", "mask", "lst", "prompt_tuning", "waveft"} <= set(space.parts)
    assert not {"full", "head"} & set(space.parts)
    assert "serial_adapter + prefix_tuning + bitfit + lora" in [one.name for one in space.compositions]


def test_what_the_user_wrote_is_not_left_out() -> None:
    with pytest.raises(Exception, match=r"space\.methods\.vera: none of"):
        bind(SpaceSpec.model_validate({"methods": ["vera"]}), tiny_anatomy(kind="conv1d"))


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str, str], str]:
    """A table that a test fills: (first, second, layers) to the reason."""
    table: dict[tuple[str, str, str], str] = {}
    monkeypatch.setattr(hybrids, "why_not_together", lambda *asked: table.get(asked[:3], ""))
    return table


def test_a_pair_that_can_share_nothing_is_refused_with_the_reason(refusals: dict[tuple[str, str, str], str]) -> None:
    refusals["lora", "ia3", "disjoint"] = "they quarrel"
    with pytest.raises(UnsupportedError, match=r"'lora \+ bitfit \+ ia3': lora and ia3 cannot share a model: they qua"):
        space_of(methods={}, hybrids=["lora + bitfit + ia3"])


def test_a_pair_that_shares_no_modules_may_stand_on_others(refusals: dict[tuple[str, str, str], str]) -> None:
    refusals["lora", "ia3", "shared"] = "they quarrel"
    with pytest.raises(UnsupportedError, match="do not overlap, or write ia3 before lora"):
        space_of(methods={}, hybrids=["lora + ia3"])
    apart = {"lora": {"projections": "attention"}, "ia3": {"projections": "mlp.down"}}
    assert space_of(methods=apart, hybrids=["lora + ia3"]).compositions[-1].name == "lora + ia3"
    layers = {"lora": {"layers": "first:1"}, "ia3": {"layers": "top:2"}}
    assert space_of(methods=layers, hybrids=["lora + ia3"]).compositions[-1].name == "lora + ia3"


def test_the_advice_to_turn_a_pair_around_is_given_only_where_it_helps(
    refusals: dict[tuple[str, str, str], str],
) -> None:
    refusals["lora", "vera", "shared"] = refusals["vera", "lora", "shared"] = "no"
    with pytest.raises(UnsupportedError) as refused:
        require_sharing(("lora", "vera"), lambda first, second: True, "bert")
    assert "before" not in str(refused.value)


def test_a_type_that_cannot_be_searched_is_refused_with_the_reason() -> None:
    with pytest.raises(KeyError, match="xlora cannot be searched: it mixes adapters"):
        method("xlora")
