"""What stored states save: training steps of a candidate beside its steps without them, in turns.

A candidate that changes the top layers begins above the layers that it leaves. A side network only reads, so that
nothing of the backbone is run in its steps.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluator.journal import Journal
from benchmarks.evaluator.subject import evaluator_spec
from evaluators.trained import TrainedEvaluator
from search_space.notation import parse

CANDIDATES = {
    "head": "head",
    "LoRA, top layer": "lora(r=8)@linear[top:1]",
    "LoRA, top two layers": "lora(r=8)@linear[top:2]",
    "LoRA, top three layers": "lora(r=8)@linear[top:3]",
    "ladder side-tuning": "lst",
    "ladder side-tuning, feed-forward": "lst(side_block=feed_forward)",
}


def measure(journal: Journal, steps: int, train: int, evaluation: int) -> None:
    """Time steps of each candidate on stored states and without, the same batches; CPU seconds."""
    if all(f"stored/{name}" in journal.rows for name in CANDIDATES):
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stored, whole = (
            TrainedEvaluator(evaluator_spec(Path(folder, str(size)), 10 * steps, train, evaluation, prefix_cache=size))
            for size in (2 << 30, 0)
        )
        for name, text in CANDIDATES.items():
            journal.once(f"stored/{name}", lambda text=text: _measure(stored, whole, text, steps))  # type: ignore[misc]


def _measure(with_states: TrainedEvaluator, without: TrainedEvaluator, text: str, steps: int) -> dict[str, Any]:
    stored, whole = (evaluator.start(parse(text), 0) for evaluator in (with_states, without))
    filled = len(stored.portion.tokens.ids) // stored.evaluator.spec.training.batch_size + 1
    stored.train(filled)  # what is stored is stored by now
    whole.train(1)
    for _ in range(filled - 1):
        next(whole.order)  # the same batches from here on
    seconds: dict[str, list[float]] = {"stored": [], "whole": []}
    for number in range(1, steps + 1):
        for side, run, until in (("stored", stored, filled + number), ("whole", whole, 1 + number)):
            began = time.process_time()
            run.train(until)
            seconds[side].append(time.process_time() - began)
    if stored.forward.why_whole:
        raise RuntimeError(f"nothing was stored: {stored.forward.why_whole}")
    return {**seconds, "layers": stored.forward.depth}
