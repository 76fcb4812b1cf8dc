"""Candidates: one JSON text each, one identity each, strict where they are read."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given

from search_space.candidate import Candidate, Part, Recipe
from search_space.errors import CandidateError
from search_space.notation import parse
from tests.search_space.candidates import candidates

LORA = parse("lora(r=4)@attention.query[top:2] + bitfit | lr=0.001/0.005")


@given(candidates())
def test_json_brings_back_an_equal_candidate_of_equal_identity(candidate: Candidate) -> None:
    again = Candidate.from_json(json.loads(candidate.canonical_json))

    assert again == candidate
    assert again.sha256 == candidate.sha256
    assert again.canonical_json == candidate.canonical_json


@given(candidates())
def test_the_canonical_json_has_sorted_keys_and_no_spaces(candidate: Candidate) -> None:
    text = candidate.canonical_json
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_the_order_of_the_knobs_makes_no_difference() -> None:
    one = Part("lora", (("r", 4), ("alpha", 16)))
    other = Part("lora", (("alpha", 16), ("r", 4)))
    assert one == other
    assert Candidate((one,), Recipe((1e-3,))).sha256 == Candidate((other,), Recipe((1e-3,))).sha256


def test_the_order_of_the_parts_makes_a_difference() -> None:
    one, other = parse("lora + bitfit | lr=0.001/0.001"), parse("bitfit + lora | lr=0.001/0.001")
    assert one != other
    assert one.sha256 != other.sha256


def test_the_identity_is_the_same_in_another_process() -> None:
    code = (
        "from search_space.notation import parse;"
        "c = parse('lora(r=4)@attention.query[top:2] + bitfit | lr=0.001/0.005');"
        "print(c.sha256, c.architecture_sha256)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert told.stdout.split() == [LORA.sha256, LORA.architecture_sha256]


def test_the_identity_is_the_one_that_storages_hold() -> None:
    """Frozen: another value here means that every study on disk trains its candidates again."""
    assert LORA.sha256 == "b30b3f738e4b594774ce24d35223f7bf8ef9ddb8a521224c16dc5e33c9cd31af"
    assert LORA.architecture_sha256 == "f1a5f62adafcf6768edfa3d9445c7d4958ba895110b22746f80d1d64c86248c0"


def test_a_recipe_at_its_defaults_leaves_them_out() -> None:
    assert Recipe((1e-3,)).to_json() == {"learning_rates": [1e-3]}
    assert Recipe((1e-3,), dropout=0.1).to_json() == {"learning_rates": [1e-3], "dropout": 0.1}


def test_whole_numbers_and_floats_are_the_same_learning_rate() -> None:
    whole = Candidate((Part("bitfit"),), Recipe((1,), weight_decay=0))  # type: ignore[arg-type]
    assert whole.sha256 == Candidate((Part("bitfit"),), Recipe((1.0,), weight_decay=0.0)).sha256


def test_candidates_that_differ_in_the_recipe_share_their_architecture() -> None:
    slow, fast = parse("ia3 | lr=0.001"), parse("ia3 | lr=0.01 head_lr=0.5")
    assert slow.architecture_sha256 == fast.architecture_sha256
    assert slow.sha256 != fast.sha256


def test_a_part_gives_its_knobs_by_name() -> None:
    assert LORA.parts[0]["r"] == 4
    with pytest.raises(KeyError):
        LORA.parts[0]["rank"]


def test_the_method_names_every_part() -> None:
    assert LORA.method == "lora + bitfit"


def test_no_part_is_refused() -> None:
    with pytest.raises(CandidateError, match="at least one part; the head alone is the method 'head'"):
        Candidate((), Recipe((1e-3,)))


def test_one_learning_rate_per_part() -> None:
    with pytest.raises(CandidateError, match="1 parts need 1 learning rates, not 2"):
        Candidate((Part("ia3"),), Recipe((1e-3, 1e-3)))


def test_a_knob_given_twice_is_refused() -> None:
    with pytest.raises(CandidateError, match="given twice"):
        Part("lora", (("r", 4), ("r", 8)))


def test_a_knob_that_is_not_finite_is_refused() -> None:
    with pytest.raises(CandidateError, match=r"lora\.r: nan is not a finite number"):
        Part("lora", (("r", math.nan),))


@pytest.mark.parametrize("rate", [0.0, -1e-3, math.nan, math.inf])
def test_a_learning_rate_must_be_positive_and_finite(rate: float) -> None:
    with pytest.raises(CandidateError, match="learning rates must be positive finite numbers"):
        Recipe((rate,))
    with pytest.raises(CandidateError, match="learning rates must be positive finite numbers"):
        Recipe((1e-3,), head_learning_rate=rate)


@pytest.mark.parametrize("name", ["label_smoothing", "dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_shares_of_a_recipe_are_in_0_to_1(name: str, value: float) -> None:
    with pytest.raises(CandidateError, match=rf"{name} must be in \[0, 1\)"):
        Recipe((1e-3,), **{name: value})


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weight_decay_is_at_least_0(value: float) -> None:
    with pytest.raises(CandidateError, match="weight_decay must be at least 0"):
        Recipe((1e-3,), weight_decay=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2 is not 1; it was written by another version"),
        ({"recipies": {}}, "candidate: unknown key 'recipies'; allowed: .* \\(did you mean 'recipe'\\?\\)"),
        ({"parts": [{"methd": "lora"}]}, "part: unknown key 'methd'.*did you mean 'method'"),
        ({"parts": [{}]}, "part: 'method' is missing"),
        ({"parts": ["lora"]}, "part: expected an object, got str"),
        ({"recipe": {"learning_rates": [1e-3], "momentum": 0.9}}, "recipe: unknown key 'momentum'"),
        ({"recipe": {}}, "recipe: 'learning_rates' is missing"),
        ({"recipe": {"learning_rates": ["fast"]}}, "recipe: learning rates must be positive finite numbers"),
        ({"recipe": {"learning_rates": 1e-3}}, "recipe: learning_rates: expected a list"),
        ({"parts": {"lora": {}}}, "candidate: parts: expected a list"),
    ],
)
def test_what_is_read_is_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(CandidateError, match=message):
        Candidate.from_json(LORA.to_json() | change)


@pytest.mark.parametrize("key", ["schema_version", "parts", "recipe"])
def test_a_missing_key_is_named(key: str) -> None:
    data = LORA.to_json()
    del data[key]
    with pytest.raises(CandidateError, match=f"{key!r} is missing"):
        Candidate.from_json(data)


def test_a_knob_that_is_added_later_changes_no_identity() -> None:
    """Whoever wrote a candidate before a knob was there meant its default."""
    data = LORA.to_json()
    assert "use_dora" not in data["parts"][0]["knobs"]
    assert Candidate.from_json(data) == LORA
    data["parts"][0]["knobs"]["use_dora"] = False
    assert Candidate.from_json(data).sha256 == LORA.sha256
