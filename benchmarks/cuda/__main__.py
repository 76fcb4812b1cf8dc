"""The command: measure on a GPU what the journal lacks, and write the report. Without one, the report is written again.

python -m benchmarks.cuda [--quick] [--journal FILE]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks import packing
from benchmarks.cuda import steps
from benchmarks.evaluator.journal import Journal
from benchmarks.report import FOLDER, write
from evaluators.device_memory import reserved_bytes
from evaluators.packing import WORTH
from search_space.quantities import format_bytes, format_count

_PACKS = tuple(product(packing.KINDS, ("float32", "bfloat16"), (2, 8, 32)))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda")
    parser.add_argument("--quick", action="store_true", help="one model and one packing, within a minute")
    parser.add_argument("--journal", type=Path, default=FOLDER / "results" / "cuda.jsonl", help="what was measured")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    there = torch.cuda.is_available()
    if given.quick and not there:
        parser.exit(message="There is no GPU here; without --quick the report is written from the journal.\n")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "quick.jsonl") if given.quick else given.journal)
        if there:
            _measure(journal, given.quick)
        result = {"device": _device(journal), "rows": journal.rows}
    text = markdown(result)
    print(text)
    if not given.quick:
        write("cuda", result, text)


def _measure(journal: Journal, quick: bool) -> None:
    journal.once("device", lambda: {"name": torch.cuda.get_device_name(), "torch": torch.__version__})
    steps.measure(journal, steps.SUBJECTS[:1] if quick else steps.SUBJECTS)
    turns = 2 if quick else packing.TURNS
    for one in _PACKS[:1] if quick else _PACKS:
        journal.once("pack/" + "/".join(map(str, one)), lambda one=one: packing.measure(*one, turns, "cuda"))  # type: ignore[misc]


def _device(journal: Journal) -> str:
    return str(journal.rows.get("device", {}).get("name", "a GPU"))


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    rows = result["rows"]
    trained = {key: row for key, row in rows.items() if key.startswith("step/") and "allocated_bytes" in row}
    plain = [_tensor_error(*one) for one in trained.items()]
    reserved = [_reserved_error(*one) for one in trained.items()]
    lines = [
        "## On a GPU: memory predicted and measured, full fine-tuning beside PEFT, packing",
        "",
        f"{result['device']}, one process. Random weights; AdamW in float32; batches as they are given, one "
        "token of padding. *Tensors*: the allocator's peak without the workspaces of cuBLAS and those weights of "
        "the backbone that a candidate trains copies of, over the prediction. *Reserved*: `max_memory_reserved`, "
        "likewise, over what `evaluators/device_memory.py` makes of the prediction; below 0 the device needs less "
        "than was said. Steps in 16 bits were measured with cuDNN's attention, which is not used since; of five that "
        "were measured both ways, the tensors' peaks differ by at most 1 MiB.",
        "",
        f"Of {len(trained)} trainings the tensors differ from the prediction by {_median(plain)} in the median, "
        f"{_share(plain, 0.02)} by at most 2 %, {_share(plain, 0.1)} by at most 10 %, the worst by "
        f"{max(plain, key=abs):+.1%}. The device needed more than was said in "
        f"{sum(one > 0 for one in reserved)} of them, at most {max(reserved):+.1%}.",
        "",
    ]
    models: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for key, row in rows.items():
        if key.startswith("step/"):
            models.setdefault(key.split("/", 2)[1], []).append((key, row))
    for model, found in models.items():
        lines += [*_table(model, found), ""]
    return "\n".join([*lines, *_packing(rows)])


def _table(model: str, rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    lines = [
        f"**{model}**",
        "",
        "| candidate | trainable | ms a step | peak predicted | tensors | reserved |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key, row in rows:
        text = _candidate(key)
        peak = format_bytes(row["predicted_bytes"])
        if "allocated_bytes" not in row:
            lines.append(f"| `{text}` | – | – | {peak} | out of memory | – |")
            continue
        lines.append(
            f"| `{text}` | {format_count(row['trainable'])} | {1e3 * row['seconds']:.0f} | {peak} | "
            f"{_tensor_error(key, row):+.1%} | {_reserved_error(key, row):+.1%} |"
        )
    return lines


def _candidate(key: str) -> str:
    return key.split("/", 2)[2]


def _tensor_error(key: str, row: dict[str, Any]) -> float:
    tensors = row["allocated_bytes"] - steps.WORKSPACE_BYTES - _beside(key, row)
    return float(tensors / row["predicted_bytes"] - 1)


def _reserved_error(key: str, row: dict[str, Any]) -> float:
    return float((row["reserved_bytes"] - _beside(key, row)) / reserved_bytes(row["predicted_bytes"]) - 1)


def _beside(key: str, row: dict[str, Any]) -> int:
    """Return the bytes of the backbone's weights that a candidate trains copies of."""
    return max(0, int(row["beside_bytes"])) if _candidate(key).startswith("full") else 0


def _median(errors: list[float]) -> str:
    return f"{statistics.median(abs(one) for one in errors):.1%}" if errors else "–"


def _share(errors: list[float], most: float) -> str:
    return f"{sum(abs(one) <= most for one in errors)} of {len(errors)}"


def _packing(rows: dict[str, Any]) -> list[str]:
    return [
        f"Packing there: {packing.RUNS} candidates of MiniLM-L6 on TREC, a step of all of them apart over one of all "
        f"together, wall clock, medians of turns with 95 % intervals; it is used from {WORTH:g}.",
        "",
        *packing.table([row for key, row in rows.items() if key.startswith("pack/")]),
    ]


if __name__ == "__main__":
    main()
