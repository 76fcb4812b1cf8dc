"""`python -m benchmarks.table`: draw, train, status."""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks import table
from benchmarks.table.drawing import draw
from benchmarks.table.tasks import COUNTS
from benchmarks.table.training import done, planned, train


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
        for task in COUNTS:
            wanted, there = planned(task), done(task)
            left = Counter(row.seed for row in wanted if row.key not in there)
            print(f"{task}: {len(there)} of {len(wanted)} trainings; left by seed: {dict(left) or 'none'}")
    for task in given.tasks if given.verb != "status" else ():
        print(f"{task}: {draw(task)} draws") if given.verb == "draw" else train(task, given.shard)


def _shard(text: str) -> tuple[int, int]:
    which, _, of = text.partition("/")
    if not (which.isdigit() and of.isdigit() and 1 <= int(which) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1/2")
    return int(which), int(of)


if __name__ == "__main__":
    main()
