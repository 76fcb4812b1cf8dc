"""The command: train what is not trained yet, write the report, or try both out."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from pathlib import Path

from benchmarks.report import FOLDER, write
from benchmarks.small_data import plan
from benchmarks.small_data.journal import Journal, laplace_journals, one_pass_journals
from benchmarks.small_data.plan import Run
from benchmarks.small_data.selection import picks
from search_space.errors import UnsupportedError

JOURNALS = FOLDER / "results" / "small_data"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_data")
    parser.add_argument(
        "do",
        choices=("train", "one_pass", "laplace", "report"),
        help="train what is not trained yet: the plan, or the ways to one pass; or say what was found",
    )
    parser.add_argument("--task", choices=plan.TASKS, help="one task alone; each has a journal of its own")
    parser.add_argument("--journals", type=Path, default=JOURNALS, help="folder in which results are kept")
    given = parser.parse_args()
    if given.do == "report":
        write_report(given.journals)
        return
    warnings.filterwarnings("ignore", message=".*lora_dropout.*")
    if given.do == "laplace":
        from benchmarks.small_data import laplace

        laplace.train(laplace_journals(given.journals))
        return
    if given.do == "one_pass":
        from benchmarks.small_data import one_pass

        one_pass.train(one_pass_journals(given.journals))
        return
    for task in (given.task,) if given.task else plan.TASKS:
        train_task(Journal(given.journals / f"{task}.jsonl"), task)


def write_report(journals: Path) -> None:
    """Write `results/small_data.json`, the pictures and the section of the results page."""
    from benchmarks.small_data.figures import draw
    from benchmarks.small_data.findings import findings
    from benchmarks.small_data.report import markdown

    found = findings(
        {task: Journal(journals / f"{task}.jsonl") for task in plan.TASKS},
        one_pass_journals(journals),
        laplace_journals(journals),
    )
    pictures = draw(found, JOURNALS)
    write("small_data", found, markdown(found, pictures))


def train_task(journal: Journal, task: str) -> None:
    """Train all of one task, in the order in which results become useful."""
    train(journal, plan.ensembles(task))
    train(journal, plan.grid(task, [0]))
    train(journal, plan.pool(task))
    train(journal, picks(journal, task))
    train(journal, plan.grid(task, range(1, plan.SEEDS)))


def train(journal: Journal, runs: Iterable[Run], steps: int | None = None) -> None:
    """Train what the journal does not have, and say so; a candidate that fails is a result."""
    import torch

    from benchmarks.small_data.training import logits_of

    torch.set_num_threads(1)
    for run in runs:
        if run in journal.rows:
            continue
        try:
            logits, seconds = logits_of(run, steps)
            journal.append(run, logits, seconds)
            print(
                f"{len(journal.rows)}: {run.task} {run.size} {run.candidate} seed {run.seed}: {seconds:.1f} s",
                flush=True,
            )
        except (UnsupportedError, FloatingPointError) as error:
            journal.append(run, None, 0.0, str(error))
            print(f"{run.task} {run.size} {run.candidate}: {error}", flush=True)


if __name__ == "__main__":
    main()
