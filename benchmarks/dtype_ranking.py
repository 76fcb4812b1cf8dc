"""Does the ranking of candidates survive bfloat16? The same candidates trained in both types, on the same batches.

    python -m benchmarks.dtype_ranking [--quick] [--journal FILE]

The frozen weights and the arithmetic are float32 or bfloat16; adapters, head and optimiser are float32 in both. Where
a processor multiplies bfloat16 in no hardware of its own, that side is slow and says nothing about speed.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.evaluator.journal import Journal
from benchmarks.evaluator.subject import evaluator_spec
from benchmarks.report import FOLDER, write
from benchmarks.table.tasks import candidates_path
from evaluators.tabulated import Table
from evaluators.trained import TrainedEvaluator
from search_space.candidate import Candidate
from search_space.errors import ParetuneError
from search_space.notation import write as notation

DTYPES = ("float32", "bfloat16")
COUNT, STEPS = 48, 60


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dtype_ranking")
    parser.add_argument("--quick", action="store_true", help="three candidates, four steps")
    parser.add_argument(
        "--journal", type=Path, default=FOLDER / "results" / "dtype_ranking.jsonl", help="what was done"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "quick.jsonl") if given.quick else given.journal)
        size = (3, 4, 160, 64) if given.quick else (COUNT, STEPS, 1280, 500)
        train(journal, candidates(size[0]), size[1], size[2], size[3], Path(folder, "tokens"))
    result = summary(journal.rows)
    text = markdown(result)
    print(text)
    if not given.quick:
        write("dtype_ranking", result, text)


def candidates(count: int) -> list[Candidate]:
    """Return the first different candidates of the table of TREC: every method and hybrid, drawn at random."""
    drawn = {row.candidate.sha256: row.candidate for row in Table.read(candidates_path("trec")).rows.values()}
    return list(drawn.values())[:count]


def train(journal: Journal, drawn: Sequence[Candidate], steps: int, size: int, evaluation: int, folder: Path) -> None:
    """Train what the journal lacks, each candidate in both types, one after the other."""
    torch.set_num_threads(1)
    spec = evaluator_spec(folder, steps, size, evaluation)
    evaluators = {
        dtype: TrainedEvaluator(replace(spec, model=spec.model.model_copy(update={"dtype": dtype}))) for dtype in DTYPES
    }
    for number, candidate in enumerate(drawn):
        for dtype in DTYPES if number % 2 else DTYPES[::-1]:
            journal.once(f"{dtype}/{number}", lambda dtype=dtype, one=candidate: _train(evaluators[dtype], one, steps))  # type: ignore[misc]


def _train(evaluator: TrainedEvaluator, candidate: Candidate, steps: int) -> dict[str, Any]:
    about = {"candidate": notation(candidate)}
    try:
        run = evaluator.start(candidate, 0)
        run.train(max(1, round(candidate.recipe.training_share * steps)))
        score = run.advance(steps - 1)
    except ParetuneError as error:
        return {**about, "error": str(error)}
    return {**about, "accuracy": score["accuracy"], "nll": score["nll"], "calibrated_nll": score["calibrated_nll"]}


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return rank correlations and differences of what was trained in both types."""
    numbers = [key.partition("/")[2] for key in rows if key.startswith(DTYPES[0])]
    both = [n for n in numbers if all("accuracy" in rows.get(f"{dtype}/{n}", {}) for dtype in DTYPES)]
    values = {
        name: np.array([[rows[f"{dtype}/{n}"][name] for dtype in DTYPES] for n in both])
        for name in ("accuracy", "calibrated_nll")
    }
    return {
        "candidates": len(both),
        "failed": sorted(n for n in numbers if n not in both),
        "metrics": {name: _agreement(one) for name, one in values.items()},
    }


def _agreement(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Return the rank correlation of pairs, shape [candidates, 2], its interval, and how far apart they are."""
    rng = np.random.default_rng(0)
    draws = [pairs[rng.integers(0, len(pairs), len(pairs))] for _ in range(2000)]
    correlations = [float(spearmanr(one[:, 0], one[:, 1]).statistic) for one in draws if len(np.unique(one[:, 0])) > 1]
    low, high = np.nanquantile(correlations, (0.025, 0.975))
    differences = pairs[:, 1] - pairs[:, 0]
    return {
        "correlation": float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic),
        "low": float(low),
        "high": float(high),
        "difference": float(differences.mean()),
        "largest": float(np.abs(differences).max()),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    lines = [
        "## Does the ranking survive bfloat16?",
        "",
        f"{result['candidates']} candidates of every method on MiniLM-L6 and TREC, {STEPS} steps, each in float32 and "
        "in bfloat16 with eager attention; adapters, head and optimiser in float32; the same seed and batches.",
        "",
        "| on validation | rank correlation | mean difference | largest |",
        "|---|---|---|---|",
    ]
    for name, one in result["metrics"].items():
        lines.append(
            f"| {name} | {one['correlation']:.3f} [{one['low']:.3f}, {one['high']:.3f}] | {one['difference']:+.4f} | "
            f"{one['largest']:.4f} |"
        )
    if result["failed"]:
        lines += ["", f"{len(result['failed'])} could not be trained in both types."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
