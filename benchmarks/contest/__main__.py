"""`python -m benchmarks.contest`: run, report, or a quick look."""

from __future__ import annotations

import argparse
import time

from rich.progress import track

from benchmarks import contest
from benchmarks.contest.contests import SEEDS, Contest, contests
from benchmarks.contest.journal import Entry, digest, read, write
from benchmarks.contest.report import report
from benchmarks.contest.searches import SEARCHES
from benchmarks.table.tasks import COUNTS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contest", description=contest.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", nargs="?", choices=("run", "report"), default="report")
    parser.add_argument("--task", action="append", choices=list(COUNTS))
    parser.add_argument(
        "--seeds", type=int, help=f"of each search; else {SEEDS['front']}, and {SEEDS['budget']} under a budget"
    )
    parser.add_argument("--searchers", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--quick", action="store_true", help="three seeds of the fast searches; nothing is written")
    given = parser.parse_args()
    tasks = given.task or list(COUNTS)
    if given.quick:
        _quick(next(one for task in tasks for one in contests(task)))
        return
    if given.verb == "run":
        for task in tasks:
            for one in contests(task):
                _run(one, given.searchers, given.seeds or SEEDS[one.kind])
    report(tasks)


def _run(contest: Contest, names: list[str], seeds: int) -> None:
    arena, steps = contest.arena, contest.steps
    there, table = {one.key for one in read()}, digest(arena)
    jobs = [(name, seed) for seed in range(seeds) for name in contest.searches if name in names]
    jobs = [(name, seed) for name, seed in jobs if (arena.name, table, name, seed, steps) not in there]
    for name, seed in track(jobs, description=arena.name):
        finished = contest.searches[name](arena, steps, seed)
        found = tuple((one.at, one.row.candidate.sha256) for one in finished)
        write(Entry(arena.name, table, name, seed, steps, found))


def _quick(contest: Contest) -> None:
    arena, steps = contest.arena, contest.steps
    for name, search in contest.searches.items():
        if name in ("AutoPEFT", "Optuna GP", "forest"):
            continue
        began = time.perf_counter()
        volumes = [arena.volume([one.row for one in search(arena, steps, seed)]) for seed in range(3)]
        shares = ", ".join(f"{one / arena.volume(arena.rows):.3f}" for one in volumes)
        print(f"{name:32} {shares}   ({time.perf_counter() - began:.1f} s)")


if __name__ == "__main__":
    main()
