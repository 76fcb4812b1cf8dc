"""Memory that runs out is a result with its cause, and what it took is given back: forced in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evaluators.out_of_memory import out_of_memory_told
from search_space.errors import EvaluationError
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec

_LIMITED = """
import gc, json, resource, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from dataclasses import replace
from evaluators.evaluation import EvaluatorSpec
from evaluators.trained import TrainedEvaluator
from search_space.errors import EvaluationError
from search_space.notation import parse

spec = EvaluatorSpec.from_json(json.loads(Path(sys.argv[1]).read_text()))
evaluator = TrainedEvaluator(spec)
evaluator.start(parse("lora(r=2)"), 0).train(2)  # threads and libraries take their address space first
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 80 * 2**20, resource.RLIM_INFINITY))
found = {}
for name, text in {"large": sys.argv[2], "small": "lora(r=2)", "again": sys.argv[2], "last": "lora(r=2)"}.items():
    try:
        run = evaluator.start(parse(text), 0)
        found[name] = run.advance(4)["accuracy"]
    except EvaluationError as error:
        found[name] = error.cause
    run = None
    gc.collect()
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_the_next_candidate_has_the_memory_that_one_ran_out_of(tmp_path: Path) -> None:
    """Full fine-tuning copies a table of 31 MiB and takes its gradient and two moments; LoRA on the rest fits."""
    spec = evaluator_spec(tmp_path, num_labels=3, vocab_size=500_000)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_json()))
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path), "full"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["large"] == found["again"] == "out_of_memory"
    assert found["small"] == found["last"]


def test_what_the_failed_calls_held_is_gone_before_the_devices_cache_is_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the error itself and of one that was being handled when it came."""
    alive: list[weakref.ref[torch.Tensor]] = []
    seen: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.extend(one() is not None for one in alive))

    def full(earlier: Callable[[], None] | None = None) -> None:
        held = torch.zeros(4)
        alive.append(weakref.ref(held))
        try:
            if earlier is not None:
                earlier()
        except MemoryError:
            raise torch.OutOfMemoryError("CUDA out of memory.") from None
        raise MemoryError

    with pytest.raises(EvaluationError, match="after step 3: CUDA out of memory"), out_of_memory_told(3):
        full(full)
    assert seen == [False, False]


@pytest.mark.gpu
def test_a_gpu_that_is_full_fails_one_candidate(tmp_path: Path) -> None:
    from dataclasses import replace

    from evaluators.trained import TrainedEvaluator

    spec = evaluator_spec(tmp_path, num_labels=3, vocab_size=1_500_000)
    spec = replace(spec, model=spec.model.model_copy(update={"device": "cuda"}))
    evaluator = TrainedEvaluator(spec)
    small = evaluator.start(parse("lora(r=2)"), 0).advance(4)["accuracy"]
    torch.cuda.empty_cache()  # what others reserved and nobody uses would be room
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 192 * 2**20) / total)
    try:
        with pytest.raises(EvaluationError) as raised:
            evaluator.start(parse("full"), 0).advance(4)
        assert raised.value.cause == "out_of_memory"
        del raised
        assert evaluator.start(parse("lora(r=2)"), 0).advance(4)["accuracy"] == small
        assert torch.cuda.memory_allocated() <= before + 2**20
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
