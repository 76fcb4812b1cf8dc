"""Where time goes: seconds by phase, each second counted once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

PhaseOfTrial = Literal["attach", "tokens", "prefix", "forward", "backward", "optimiser", "evaluation", "measurement"]
PHASES: tuple[PhaseOfTrial, ...] = get_args(PhaseOfTrial)
IN_STEPS: tuple[PhaseOfTrial, ...] = ("tokens", "forward", "backward", "optimiser")
"""Phases whose time grows with the steps of training."""


class Clock:
    """Adds up the seconds of phases. A phase inside another takes its time away from the outer one.

    Args:
        settle: Called at the edges of phases, to wait for a device that works on behind Python's back.

    Attributes:
        seconds: Seconds of each phase.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None) -> None:
        self.settle = settle
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: PhaseOfTrial) -> Iterator[None]:
        """Count the time inside the context as a phase's."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Give the time since the last edge to the phase that is open."""
        self.settle()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
