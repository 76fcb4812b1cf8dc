"""What the meter of the orchestration's cost takes for the end of a trial."""

from __future__ import annotations

from typing import get_args

from benchmarks.overhead import Meter, _Ends
from orchestrator.trial import State
from tests.orchestrator.made_up import make_trial


def test_a_trial_ends_once_when_it_is_settled() -> None:
    ended = []
    for state in get_args(State):
        meter = Meter()
        _Ends(meter).changed(make_trial(0, None, state=state))
        ended += [state] * len(meter.marks)
    assert ended == ["complete", "partial", "failed"]
