"""The command: measure what the journal lacks, and write the report.

python -m benchmarks.evaluator [--quick] [--journal FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.evaluator import limit, scales, sides, stored
from benchmarks.evaluator.journal import Journal
from benchmarks.evaluator.subject import CANDIDATES, MAX_LENGTH
from benchmarks.report import FOLDER, Ratio, ratio_interval, write
from search_space.quantities import format_bytes, format_count

_GOAL, _LIMITS = 5.0, {"full placement": 0.6, "top two layers, prefix stored": 0.7}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluator")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, within a minute")
    parser.add_argument(
        "--journal", type=Path, default=FOLDER / "results" / "evaluator.jsonl", help="what was measured"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "quick.jsonl") if given.quick else given.journal)
        axes = {"tokens": (16, 64), "candidates": (1, 4)} if given.quick else scales.AXES
        models = scales.MODELS[:1] if given.quick else scales.MODELS
        _measure(journal, axes, models, given.quick)
        picture = Path(folder, "evaluator.png") if given.quick else FOLDER / "results" / "evaluator.png"
        result = _result(journal, models, scales.plot(journal, axes, picture))
    result["quick"] = given.quick
    text = markdown(result)
    print(text)
    if not given.quick:
        write("evaluator", result, text)


def _measure(journal: Journal, axes: Any, models: tuple[str, ...], quick: bool) -> None:
    if quick:
        limit.measure(journal, 3, 160, 64)
        stored.measure(journal, 2, 160, 64)
        sides.levers(journal, 4, 160, 64, CANDIDATES[16:17])
        scales.scale(journal, 2, axes)
        scales.full_beside_peft(journal, 1, models)
        sides.compare(journal, 4, 160, 64, blocks=1, per_block=1)
        return
    limit.measure(journal, 40, 1280, 500)
    stored.measure(journal, 20, 1280, 500)
    sides.levers(journal, 60, 1280, 500, CANDIDATES[::4])
    scales.scale(journal, 8, axes)
    scales.full_beside_peft(journal, 8, models)
    sides.compare(journal, 60, 1280, 500, blocks=4, per_block=6)


def _result(journal: Journal, models: tuple[str, ...], exponents: dict[str, float]) -> dict[str, Any]:
    rows = journal.rows
    numbers = sorted(key.partition("/")[2] for key in rows if key.startswith("ours/"))
    seconds = {side: [rows[f"{side}/{n}"]["seconds"] for n in numbers] for side in sides.SIDES}
    accuracy = {side: [one for n in numbers for one in rows[f"{side}/{n}"]["accuracies"]] for side in seconds}
    count = len(accuracy["ours"])
    return {
        "candidates": count,
        "per_hour": {side: 3600 * count / sum(seconds[side]) for side in seconds},
        "speedup": ratio_interval(seconds["stock"], seconds["ours"]).to_json(),
        "accuracy": {side: float(np.mean(one)) for side, one in accuracy.items()},
        "difference": _difference(accuracy["ours"], accuracy["stock"]),
        "bfloat16": {
            "speedup": ratio_interval(seconds["stock"], seconds["bfloat16"]).to_json(),
            "difference": _difference(accuracy["bfloat16"], accuracy["stock"]),
        },
        "levers": {lever: _lever(rows, lever).to_json() for lever in sides.LEVERS[1:]},
        "stored": {name: _stored(rows, name) for name in stored.CANDIDATES},
        "limit": {name: _limit(rows, name).to_json() for name in limit.PLACEMENTS},
        "exponents": exponents,
        "peft": {name: {method: _peft(rows, name, method) for method in scales.METHODS} for name in models},
    }


def _difference(ours: list[float], stock: list[float]) -> dict[str, float]:
    """Return the mean of paired differences with its interval (bootstrap over candidates)."""
    pairs = np.array(ours) - np.array(stock)
    draws = pairs[np.random.default_rng(0).integers(0, len(pairs), (10_000, len(pairs)))].mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"value": float(pairs.mean()), "low": float(low), "high": float(high)}


def _lever(rows: dict[str, Any], lever: str) -> Ratio:
    """Return how much longer the candidates take without a lever, all of them together."""
    numbers = [key.rpartition("/")[2] for key in rows if key.startswith(f"lever/{lever}/")]
    off, on = ([rows[f"lever/{one}/{n}"]["seconds"] for n in numbers] for one in (lever, sides.ALL))
    return paired_ratio(off, on)


def _limit(rows: dict[str, Any], name: str) -> Ratio:
    return paired_ratio(rows[f"limit/{name}"]["least"], rows[f"limit/{name}"]["step"])


def _stored(rows: dict[str, Any], name: str) -> dict[str, Any]:
    row = rows[f"stored/{name}"]
    return {"layers": row["layers"], "ratio": paired_ratio(row["whole"], row["stored"]).to_json()}


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Return sum(a) / sum(b) of pairs with its percentile bootstrap interval over the pairs."""
    first, second = np.array(a), np.array(b)
    draws = np.random.default_rng(0).integers(0, len(first), (10_000, len(first)))
    low, high = np.quantile(first[draws].sum(axis=1) / second[draws].sum(axis=1), (0.025, 0.975))
    return Ratio(float(first.sum() / second.sum()), float(low), float(high))


def _peft(rows: dict[str, Any], name: str, method: str) -> dict[str, Any]:
    row = rows[f"peft/{name}/{method}"]
    return {**row, "seconds": median(row["seconds"])}


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    lines = ["## Evaluator: how many candidates an hour?", ""]
    speed, per_hour, accuracy = Ratio(**result["speedup"]), result["per_hour"], result["accuracy"]
    bfloat16 = result["bfloat16"]
    lines += [
        f"MiniLM-L6 on TREC, {result['candidates']} LoRA candidates, equal steps, data and batch size, one "
        "core, one trial at a time. The other side is a function for Ray Tune with `Trainer` and peft: it loads the "
        f"model and tokenises the data in each trial, padded to {MAX_LENGTH} tokens. Wall clock, blocks in turns.",
        "",
        "| | candidates per hour | mean accuracy |",
        "|---|---|---|",
        f"| Paretune, float32 | {per_hour['ours']:.1f} | {accuracy['ours']:.3f} |",
        f"| Paretune, bfloat16 (its default where a CPU computes in it) | {per_hour['bfloat16']:.1f} | "
        f"{accuracy['bfloat16']:.3f} |",
        f"| Ray Tune, Trainer, peft, float32 | {per_hour['stock']:.1f} | {accuracy['stock']:.3f} |",
        "",
        f"Ratio in float32 **{speed}**, goal {_GOAL:g}: {_verdict(speed.value >= _GOAL)}; accuracy differs by "
        f"{_signed(result['difference'])} (pairs). Under bfloat16 the ratio is **{Ratio(**bfloat16['speedup'])}**; "
        f"accuracy differs by {_signed(bfloat16['difference'])}.",
        "",
        "Each lever switched off, the others on; CPU time of one process:",
        "",
        "| without | takes longer by |",
        "|---|---|",
        *(f"| {name} | {Ratio(**one)} x |" for name, one in result["levers"].items()),
        "",
        "A training step without stored states, over one with them; CPU time, in turns:",
        "",
        "| candidate | layers not run | takes longer by |",
        "|---|---:|---:|",
        *(f"| {name} | {one['layers']} of 6 | {Ratio(**one['ratio'])} x |" for name, one in result["stored"].items()),
        "",
        "The matrix products that a step cannot do without, replayed alone, as a share of the step (1 is the limit):",
        "",
        "| LoRA on every linear module | share | goal |",
        "|---|---|---|",
    ]
    for name, one in result["limit"].items():
        lines.append(f"| {name} | {Ratio(**one)} | {_LIMITS[name]}: {_verdict(one['value'] >= _LIMITS[name])} |")
    grown = ", ".join(f"{axis} {value:.2f}" for axis, value in result["exponents"].items())
    lines += [
        "",
        f"The cost of a step, and of a number of candidates, grows with a power of: {grown}.",
        "",
        "![growth](results/evaluator.png)",
        "",
    ]
    lines += _peft_table(result["peft"])
    return "\n".join(lines)


def _peft_table(peft: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "Full fine-tuning and PEFT, a step of 8 examples of 32 tokens, without stored states (random weights):",
        "",
        "| model | method | trainable | CPU ms | of full | peak memory | of full |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, methods in peft.items():
        full = methods["full"]
        for method, one in methods.items():
            time_share, memory_share = one["seconds"] / full["seconds"], one["peak_bytes"] / full["peak_bytes"]
            lines.append(
                f"| {model} | `{method}` | {format_count(one['trainable'])} | {1e3 * one['seconds']:.0f} | "
                f"{time_share:.0%} | {format_bytes(one['peak_bytes'])} | {memory_share:.0%} |"
            )
    return lines


def _signed(one: dict[str, float]) -> str:
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


if __name__ == "__main__":
    main()
