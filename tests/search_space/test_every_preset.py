"""What holds of every preset: round trips, one identity in every process, every draw valid on the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.candidate import Candidate
from search_space.knobs import RandomChooser
from search_space.notation import parse, write
from search_space.registry import method
from search_space.space import bind, resolve
from search_space.spec import SpaceSpec, presets
from tests.search_space.choosers import Recorded, Replayed
from tests.search_space.test_space import tiny_anatomy

ANATOMY = tiny_anatomy(12)
SPACES = {name: bind(SpaceSpec(preset=name), ANATOMY) for name in presets()}
_HASHES = """
import json, sys
from search_space.candidate import Candidate
print(json.dumps([Candidate.from_json(one).sha256 for one in json.load(sys.stdin)]))
"""


@given(st.sampled_from(sorted(presets())), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_draw_is_valid_and_comes_back_from_notation_json_and_parameters(name: str, seed: int) -> None:
    space = SPACES[name]
    candidate = space.draw(RandomChooser(seed))
    for part in candidate.parts:
        method(part.method).check(part)
        assert resolve(part, ANATOMY).layers
    assert parse(write(candidate)) == candidate
    assert Candidate.from_json(json.loads(candidate.canonical_json)) == candidate
    replay = Replayed(space.encode(candidate))
    assert space.draw(replay) == candidate
    assert replay.unused == []


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_parameter_has_one_domain_in_every_draw(name: str) -> None:
    chooser = Recorded(RandomChooser(0)._random)
    for _ in range(100):
        SPACES[name].draw(chooser)  # `Recorded` refuses a name that comes with another domain
    assert chooser.domains


def test_identities_are_the_same_in_another_process() -> None:
    drawn = [SPACES[name].draw(RandomChooser(seed)) for name in sorted(presets()) for seed in range(5)]
    given_to = json.dumps([one.to_json() for one in drawn])
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", _HASHES]
    answer = subprocess.run(command, input=given_to, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(answer.stdout) == [one.sha256 for one in drawn]
