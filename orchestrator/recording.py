"""The record is written beside the study, by a thread of its own: no trial waits for MLflow, however slow it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from orchestrator.front import Front
from orchestrator.recorder import Recorder
from orchestrator.trial import Trial


class Recording:
    """Passes trials and fronts on to a recorder, in their order. Leaving the context waits until all were taken.

    Whatever a recorder raises is a fault of ours, since MLflow's own are not raised: it is raised here by a later call.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="paretune-recorder")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._raise_faults()

    def trial(self, trial: Trial) -> None:
        """Have a settled trial recorded."""
        self._pass_on(self._recorder.record_trial, trial)

    def front(self, front: Front) -> None:
        """Have recorded where the front stands."""
        self._pass_on(self._recorder.record_study, front)

    def _pass_on(self, call: Callable[..., None], what: Any) -> None:
        self._raise_faults()
        self._waiting.append(self._thread.submit(call, what))

    def _raise_faults(self) -> None:
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
