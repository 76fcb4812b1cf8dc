"""`python -m benchmarks.table`: draw, train, status."""

from __future__ import annotations

import argparse

from benchmarks import table
from benchmarks.table.drawing import draw
from benchmarks.table.plan import STAGES, Stage
from benchmarks.table.tasks import COUNTS
from benchmarks.table.training import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=table.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status")
    for verb in ("draw", "train"):
        one = verbs.add_parser(verb)
        one.add_argument("tasks", nargs="*", default=list(COUNTS))
    one.add_argument("--shard", type=_shard, default=(1, 1), help="which part of how many: 1/2")
    given = parser.parse_args()
    if given.verb == "status":
        for stage in STAGES:
            print(f"{stage}: {len(stage.rows()) - len(stage.left())} of {len(stage.rows())} trainings")
    elif given.verb == "draw":
        for task in given.tasks:
            print(f"{task}: {draw(task)} candidates more")
    else:
        for stage in STAGES:
            if stage.task in given.tasks:
                _train(stage, *given.shard)


def _train(stage: Stage, which: int, of: int) -> None:
    """Train what is missing of one shard: every so many-th row of a stage, wherever the others stand."""
    if stage.origin == "transfer":
        draw(stage.task)
    mine = {row.key for row in stage.rows()[which - 1 :: of]}
    train(stage.task, [row for row in stage.left() if row.key in mine], str(stage))


def _shard(text: str) -> tuple[int, int]:
    which, _, of = text.partition("/")
    if not (which.isdigit() and of.isdigit() and 1 <= int(which) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1/2")
    return int(which), int(of)


if __name__ == "__main__":
    main()
