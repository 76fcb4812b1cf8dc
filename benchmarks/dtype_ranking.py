"""Does the ranking of candidates survive bfloat16? The table's candidates, trained in float32 as well.

    python -m benchmarks.dtype_ranking [--quick] [--journal FILE]

The table of TREC is trained in bfloat16: the frozen weights and the arithmetic, with every step made in float32. Here
its first candidates are trained once more with everything in float32, on the same seed, batches and steps.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.evaluator.journal import Journal
from benchmarks.report import FOLDER, write
from benchmarks.table.tasks import RUNGS, spec_of, table_path
from evaluators.tabulated import Row, Table
from evaluators.trained import TrainedEvaluator
from orchestrator.preparation import prepare
from search_space.errors import ParetuneError
from search_space.notation import write as notation

TASK, COUNT = "trec", 48
METRICS = ("accuracy", "calibrated_nll")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dtype_ranking")
    parser.add_argument("--quick", action="store_true", help="one candidate")
    parser.add_argument(
        "--journal", type=Path, default=FOLDER / "results" / "dtype_ranking.jsonl", help="what was done"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table.read(table_path(TASK))
    rows = table.of("wide").main()[: 1 if given.quick else COUNT]
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "quick.jsonl") if given.quick else given.journal)
        train(journal, rows, Path(folder))
    result = summary(journal.rows, in_bfloat16(table, rows))
    text = markdown(result)
    print(text)
    if not given.quick:
        write("dtype_ranking", result, text)


def in_bfloat16(table: Table, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return what the table holds of rows, by candidate."""
    at = [table.header.quality.index(name) for name in METRICS]
    return {
        row.candidate.sha256: {"error": row.message}
        if row.cause
        else {name: row.validation[-1][index] for name, index in zip(METRICS, at, strict=True)}
        for row in rows
    }


def train(journal: Journal, rows: Sequence[Row], folder: Path) -> None:
    """Train in float32 what the journal lacks."""
    spec = spec_of(TASK)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": "float32"})})
    evaluator = TrainedEvaluator(prepare(spec, folder).evaluator)
    for row in rows:
        journal.once(row.candidate.sha256, lambda row=row: _train(evaluator, row))  # type: ignore[misc]


def _train(evaluator: TrainedEvaluator, row: Row) -> dict[str, Any]:
    about = {"candidate": notation(row.candidate)}
    try:
        score = evaluator.start(row.candidate, row.seed).advance(evaluator.spec.steps)
    except ParetuneError as error:
        return {**about, "error": str(error)}
    return {**about, **{name: score[name] for name in METRICS}}


def summary(exact: Mapping[str, Mapping[str, Any]], rounded: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return rank correlations and differences of what was trained in both types.

    Args:
        exact: What float32 gave, by candidate.
        rounded: What bfloat16 gave.
    """
    both = [key for key, one in exact.items() if METRICS[0] in one and METRICS[0] in rounded.get(key, {})]
    pairs = {name: np.array([[one[key][name] for one in (exact, rounded)] for key in both]) for name in METRICS}
    return {
        "candidates": len(both),
        "failed": sorted(key for key in exact if key not in both),
        "metrics": {name: _agreement(one) for name, one in pairs.items()},
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
        f"{result['candidates']} candidates of every method on MiniLM-L6 and TREC, {RUNGS[-1]} steps, each "
        "in float32 and in bfloat16 (steps made in float32); the same seed and batches.",
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
