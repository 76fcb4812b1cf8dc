"""The record is written by a thread: in order, wholly, and its faults come up."""

import threading

import pytest

from orchestrator.recording import Recording
from tests.orchestrator.made_up import make_trial


class Slow:
    """A recorder whose server answers when it is told to."""

    def __init__(self):
        self.answers = threading.Event()
        self.taken = []

    def record_trial(self, trial):
        assert self.answers.wait(10)
        self.taken.append(trial.number)

    record_study = record_trial


def test_nobody_waits_and_nothing_is_lost():
    recorder = Slow()
    with Recording(recorder) as recording:
        for number in range(5):
            recording.trial(make_trial(number))
        assert recorder.taken == []
        recorder.answers.set()
    assert recorder.taken == [0, 1, 2, 3, 4]


class Broken:
    def record_trial(self, trial):
        raise ZeroDivisionError

    record_study = record_trial


def test_a_fault_comes_up():
    with pytest.raises(ZeroDivisionError), Recording(Broken()) as recording:
        recording.trial(make_trial(0))


def test_a_fault_does_not_hide_what_went_wrong_before():
    def study():
        with Recording(Broken()) as recording:
            recording.trial(make_trial(0))
            raise KeyError

    with pytest.raises(KeyError):
        study()
