"""What is gained by training candidates in one forward pass? Four candidates of one kind together and apart, in turns.

    python -m benchmarks.packing [--quick]

CPU seconds of one process and one thread; `python -m benchmarks.cuda` measures the same on a GPU. The candidates have
different learning rates and seeds, so that they see different batches, which are padded together. Nothing is stored of
the frozen layers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluator.subject import evaluator_spec
from benchmarks.report import Ratio, ratio_interval, write
from evaluators.packing import WORTH, Pack
from evaluators.trained import TrainedEvaluator
from search_space.notation import parse

RUNS, TURNS = 4, 12
_WARM_UP = 2
KINDS = {"LoRA on query and value": "lora(r=8)", "serial adapters": "serial_adapter(r=16)"}
SETTINGS = tuple(product(KINDS, ("float32", "bfloat16"), (2, 8, 16)))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing")
    parser.add_argument("--quick", action="store_true", help="one setting, two turns")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    settings, turns = (SETTINGS[:1], 2) if given.quick else (SETTINGS, TURNS)
    rows = [measure(*setting, turns) for setting in settings]
    result = {"runs": RUNS, "turns": turns, "rows": rows, "quick": given.quick}
    text = markdown(result)
    print(text)
    if not given.quick:
        write("packing", result, text)


def measure(kind: str, dtype: str, batch: int, turns: int, device: str = "cpu") -> dict[str, Any]:
    """Return seconds of steps together and apart, and the gain: of the processor, or of the wall where a GPU works."""
    clock = time.process_time if device == "cpu" else _wall_clock
    with tempfile.TemporaryDirectory() as folder:
        spec = evaluator_spec(Path(folder), 1000, 640, 64, batch_size=batch, prefix_cache=0, device=device)
        evaluator = TrainedEvaluator(replace(spec, model=spec.model.model_copy(update={"dtype": dtype})))
        runs = [evaluator.start(parse(f"{KINDS[kind]} | lr={1e-3 * (seed + 1):g}"), seed) for seed in range(RUNS)]
        pack = Pack(runs)
        sides: dict[str, list[float]] = {"together": [], "apart": []}

        def apart(until: int) -> None:
            for run in runs:
                run.train(until)

        ways: dict[str, Callable[[int], None]] = {"together": pack.train, "apart": apart}
        for turn in range(_WARM_UP + turns):
            for name in sorted(ways, reverse=bool(turn % 2)):
                began = clock()
                ways[name](runs[0].step + 1)
                sides[name].append(clock() - began)
    kept = {name: seconds[_WARM_UP:] for name, seconds in sides.items()}
    gain = ratio_interval(kept["apart"], kept["together"]).to_json()
    return {"kind": kind, "dtype": dtype, "batch": batch, **kept, "gain": gain}


def _wall_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    lines = [
        "## Packing: what is gained by training candidates together?",
        "",
        f"MiniLM-L6 on TREC, {result['runs']} candidates of one kind, CPU time of one thread; a step of all of them "
        f"apart over one of all together, medians of {result['turns']} turns with 95 % intervals. Above 1 packing is "
        f"faster; it is used from {WORTH:g}.",
        "",
        *table(result["rows"]),
    ]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was measured as the lines of a table."""
    lines = ["| candidates | type | examples of a candidate's step | gain | |", "|---|---|---:|---:|---|"]
    for one in rows:
        used = "worth it" if one["gain"]["value"] >= WORTH else "not worth it"
        lines.append(f"| {one['kind']} | {one['dtype']} | {one['batch']} | {Ratio(**one['gain'])} | {used} |")
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
