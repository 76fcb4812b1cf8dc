"""Traces of candidates on one backbone, made here or in a process of their own.

A process of its own keeps what tracing does away from a study: a crash, a hang, the dispatch modes of torch, memory. It
takes requests and gives answers as lines of JSON, and ends when nobody asked for a while.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, cast

import torch
import transformers
from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import build_on_meta
from evaluators.layer_trace import Trace, trace
from evaluators.memory import Load, StepCost, predict_step
from evaluators.short_model import on_layers, shortened
from search_space.candidate import Candidate
from search_space.errors import PlacementError, TracingError, UnsupportedError
from search_space.placement import Anatomy

_IDLE_SECONDS = 600.0
_PATIENCE_SECONDS = 600.0
_MOST_READ = 1 << 16
_RAISED: dict[str, type[Exception]] = {
    one.__name__: one for one in (RuntimeError, IndexError, ValueError, TypeError, UnsupportedError, PlacementError)
}
"""What a candidate that cannot be traced raises, on either side of the process."""


@dataclass(frozen=True)
class Subject:
    """A backbone whose candidates are traced, told so that another process can build it.

    Attributes:
        config: Of the model, as JSON data.
        attention: Its implementation of attention.
        dtype: Type of the frozen weights, such as `bfloat16`.
        quantization: Kind of quantised weights, or `none`.
        device: Type of the device where it would run.
    """

    config: Mapping[str, Any]
    attention: str
    dtype: str
    quantization: str
    device: str

    @classmethod
    def of(cls, config: Any, attention: str, dtype: torch.dtype, anatomy: Anatomy) -> Subject:
        """Describe a model by its configuration and what it is built with."""
        said = json.loads(config.to_json_string(use_diff=False))
        said.pop("_name_or_path", None)
        return cls(said, attention, str(dtype).removeprefix("torch."), anatomy.quantization, anatomy.device)

    def build(self) -> LocalTracer:
        """Build the model on `meta`, and what traces its candidates."""
        said = dict(self.config)
        dtype = getattr(torch, self.dtype)
        config = transformers.AutoConfig.for_model(said.pop("model_type"), **said)
        model = build_on_meta(config, self.attention, dtype)
        anatomy = replace(anatomy_of(model), quantization=self.quantization, device=self.device)
        return LocalTracer(model, anatomy, dtype)


class Tracer(Protocol):
    """Traces candidates on one backbone."""

    def layers(self, candidate: Candidate, kept: Sequence[int], load: Load) -> Trace:
        """Trace a model of some layers only, cut at their borders. Raises what `attach` and `trace` raise."""

    def whole(self, candidate: Candidate, load: Load) -> StepCost:
        """Trace a whole step. Raises what `attach` and `predict_step` raise."""


class LocalTracer:
    """Traces in this process.

    Args:
        model: A frozen classifier on `meta`.
        anatomy: Its anatomy.
        dtype: Type of the frozen weights.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, dtype: torch.dtype) -> None:
        self._model, self._anatomy, self._dtype = model, anatomy, dtype
        self._short: dict[tuple[int, ...], tuple[nn.Module, Anatomy]] = {}

    def layers(self, candidate: Candidate, kept: Sequence[int], load: Load) -> Trace:
        """Trace a model of some layers only."""
        key = tuple(kept)
        if key not in self._short:
            self._short[key] = shortened(self._model, self._anatomy, key)
        model, anatomy = self._short[key]
        attached = attach(model, anatomy, on_layers(candidate, key, self._anatomy.n_layers))
        return trace(attached, [block.name for block in anatomy.blocks], self._dtype, load)

    def whole(self, candidate: Candidate, load: Load) -> StepCost:
        """Trace a whole step."""
        return predict_step(attach(self._model, self._anatomy, candidate), self._dtype, load)


class TracingProcess:
    """A process that traces, begun when it is first needed and again whenever it ended.

    Args:
        patience: Seconds to wait for an answer.
        idle: Seconds after which it ends when nobody asks.
    """

    def __init__(self, patience: float = _PATIENCE_SECONDS, idle: float = _IDLE_SECONDS) -> None:
        self._patience, self._idle = patience, idle
        self._child: _Child | None = None

    def __enter__(self) -> TracingProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def of(self, subject: Subject) -> Tracer:
        """Return what traces candidates of a backbone there."""
        return _RemoteTracer(self, subject)

    def start(self) -> None:
        """Begin the process if it does not run, without waiting for it. Raises TracingError if it cannot be begun."""
        self._running()

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Return the answer to a request.

        Raises:
            TracingError: The process died, or gave no answer in time; the next request begins another.
        """
        line = json.dumps(request).encode() + b"\n"
        while True:
            child = self._running()
            try:
                answer = child.ask(line, self._patience)
            except BaseException:  # one that still works on this would answer it in the place of the next
                self.close()
                raise
            if answer is not None:
                return json.loads(answer)
            self.close()  # nobody had asked for long enough, until now

    def close(self) -> None:
        """End the process, if it runs."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _running(self) -> _Child:
        if self._child is None or not self._child.runs:
            self.close()
            try:
                self._child = _Child(self._idle)
            except OSError as error:
                raise TracingError(f"the process that traces cannot be begun: {error}") from error
        return self._child


class _Child:
    """One such process, from its beginning to its end."""

    def __init__(self, idle: float) -> None:
        where = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process is)
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own module)
                [sys.executable, "-m", "evaluators.tracing", str(idle)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, bufsize=0,
                env={**os.environ, "PYTHONPATH": where},
                start_new_session=True,  # an interrupt is for the study, which may want an answer still
            )  # fmt: skip
        except OSError:
            self._complaints.close()
            raise
        self._requests, self._answers = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def ask(self, line: bytes, patience: float) -> bytes | None:
        """Return the answer to a line; None where the process had ended because nobody asked."""
        try:
            self._requests.write(line)
        except BrokenPipeError:
            self._require_well_ended()
            return None
        deadline, answer = time.monotonic() + patience, b""
        with selectors.DefaultSelector() as ready:
            ready.register(self._answers, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    raise TracingError(f"the process that traces gave no answer in {patience:g} s and was ended")
                more = os.read(self._answers.fileno(), _MOST_READ)
                if not more:
                    self._require_well_ended()
                    return None
                answer += more
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers, self._complaints):
            stream.close()

    def _require_well_ended(self) -> None:
        """Raise TracingError where it ended otherwise than it should."""
        code = self._process.wait()
        if code < 0:
            killed = ", as systems do that run out of memory" if code == -signal.SIGKILL else ""
            raise TracingError(f"the process that traces was ended by {signal.Signals(-code).name}{killed}")
        if code > 0:
            self._complaints.seek(0)
            last = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise TracingError(f"the process that traces ended with {code}: {last}")


class _RemoteTracer:
    def __init__(self, process: TracingProcess, subject: Subject) -> None:
        self._process, self._subject = process, asdict(subject)

    def layers(self, candidate: Candidate, kept: Sequence[int], load: Load) -> Trace:
        return Trace.from_json(self._ask(candidate, load, list(kept)))

    def whole(self, candidate: Candidate, load: Load) -> StepCost:
        return StepCost(**self._ask(candidate, load, None))

    def _ask(self, candidate: Candidate, load: Load, kept: list[int] | None) -> Any:
        answer = self._process.ask(
            {
                "subject": self._subject,
                "candidate": candidate.to_json(),
                "load": asdict(load),
                "kept": kept,
                "threads": torch.get_num_threads(),
            }
        )
        if "raised" not in answer:
            return answer["found"]
        name, message = answer["raised"]
        raise _RAISED[name](message) if name in _RAISED else TracingError(f"tracing failed: {name}: {message}")


@cache
def _tracer(subject: str) -> LocalTracer:
    return Subject(**json.loads(subject)).build()


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(request["threads"])
    candidate, load = Candidate.from_json(request["candidate"]), Load(**request["load"])
    try:
        tracer = _tracer(json.dumps(request["subject"]))
        if request["kept"] is None:
            return {"found": asdict(tracer.whole(candidate, load))}
        return {"found": asdict(tracer.layers(candidate, request["kept"], load))}
    except Exception as error:  # noqa: BLE001  (whatever a candidate raises is the asker's to judge)
        kinds = (name for name, kind in _RAISED.items() if isinstance(error, kind))
        return {"raised": [next(kinds, type(error).__name__), str(error)]}


def _serve(idle: float) -> None:
    """Answer lines from standard input until it ends, or none came for some seconds."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    read = b""
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        while ready.select(idle):
            more = os.read(0, _MOST_READ)
            if not more:
                return
            *lines, read = (read + more).split(b"\n")
            for line in lines:
                answers.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
