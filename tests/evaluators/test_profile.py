"""Where the time of a trial goes: every second has a phase, and the tokens that are padding are counted."""

from __future__ import annotations

import json

import pytest

from evaluators.clock import PHASES
from evaluators.profile import Profile, profile
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec

TEXTS = ("lora(r=2)@attention.query[top:1]", "lora(r=2)", "prompt_tuning", "lora(r=2/4/8)")


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    spec = evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3)
    return profile(spec, [parse(text) for text in TEXTS], seed=0, steps=6, rungs=3)


def test_every_phase_has_its_seconds(profiled: Profile) -> None:
    for one in profiled.trials[:3]:
        assert set(one.measured) == {*PHASES, "overhead"}
        assert all(one.measured[name] > 0 for name in ("attach", "tokens", "forward", "backward", "evaluation"))
        assert one.measured["overhead"] >= 0
    assert profiled.load > 0


def test_a_full_trial_is_told_from_a_few_steps(profiled: Profile) -> None:
    one = profiled.trials[1]
    assert (profiled.steps, profiled.full_steps) == (6, 12)
    assert one.whole["forward"] == pytest.approx(2 * one.measured["forward"])
    assert one.whole["evaluation"] == pytest.approx(3 * one.measured["evaluation"])
    assert one.whole["attach"] == one.measured["attach"]


def test_only_what_starts_from_stored_states_fills_them(profiled: Profile) -> None:
    top, every = profiled.trials[0], profiled.trials[1]
    assert top.stored_layers == 1
    assert top.measured["prefix"] > 0
    assert every.measured["prefix"] == 0
    assert "first layer" in every.why_whole


def test_what_cannot_be_trained_says_why(profiled: Profile) -> None:
    assert profiled.trials[3].failure


def test_wasted_padding_is_counted(profiled: Profile) -> None:
    padding = profiled.padding
    assert set(padding) == {"training", "evaluation", "to_the_longest"}
    assert 0 <= padding["training"] < padding["to_the_longest"] < 1


def test_it_is_json(profiled: Profile) -> None:

    data = json.loads(json.dumps(profiled.to_json()))
    assert [one["candidate"].partition(" ")[0] for one in data["trials"]][2].startswith("prompt_tuning")


def test_what_is_wasted_is_what_is_not_a_token() -> None:
    from tests.evaluators.test_tokens import tokens_of

    tokens = tokens_of([1, 4, 2, 2])
    assert tokens.wasted([[0, 1], [2, 3]]) == pytest.approx(1 - 9 / 12)
    assert tokens.wasted([[0, 1, 2, 3]]) == pytest.approx(1 - 9 / 16)
