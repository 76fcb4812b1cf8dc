"""`python -m benchmarks.contest`: run, report, or a quick look."""

from __future__ import annotations

import argparse
import time

from rich.progress import track

from benchmarks import contest
from benchmarks.contest.arena import Arena
from benchmarks.contest.journal import Entry, digest, read, write
from benchmarks.contest.report import report
from benchmarks.contest.searches import SEARCHES
from benchmarks.table.tasks import COUNTS, space_of, spec_of, table_path
from evaluators.tabulated import Table

CLASSES = {"trec": 6, "movie": 2}
TRAININGS = {"trec": 100, "movie": 60}
"""Full trainings that the budget of steps would pay for, by task."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contest", description=contest.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", nargs="?", choices=("run", "report"), default="report")
    parser.add_argument("--task", action="append", choices=list(COUNTS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--searchers", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--quick", action="store_true", help="three seeds of the fast searches; nothing is written")
    given = parser.parse_args()
    arenas = [arena_of(task) for task in given.task or COUNTS if table_path(task).exists()]
    steps = {arena.name: _steps(arena) for arena in arenas}
    if given.quick:
        _quick(arenas[0], steps[arenas[0].name])
        return
    if given.verb == "run":
        for arena in arenas:
            _run(arena, given.searchers, given.seeds, steps[arena.name])
    report(arenas, steps)


def arena_of(task: str) -> Arena:
    """Return the arena of the wide space in a task's table."""
    table = Table.read(table_path(task)).of("wide")
    parameters = int(table.header.provenance["backbone_parameters"])
    limit = int(spec_of(task).budgets.limits(parameters)["trainable_params"])
    return Arena(task, table, space_of(table.header), CLASSES[task], limit)


def _steps(arena: Arena) -> int:
    """Return the budget: no more than half of what the table holds, so that a search has to choose."""
    return arena.full * min(TRAININGS[arena.name], len(arena.rows) // 2)


def _run(arena: Arena, names: list[str], seeds: int, steps: int) -> None:
    there, table = {one.key for one in read()}, digest(arena)
    jobs = [(name, seed) for seed in range(seeds) for name in names]
    jobs = [(name, seed) for name, seed in jobs if (arena.name, table, name, seed, steps) not in there]
    for name, seed in track(jobs, description=arena.name):
        finished = SEARCHES[name](arena, steps, seed)
        found = tuple((one.at, one.row.candidate.sha256) for one in finished)
        write(Entry(arena.name, table, name, seed, steps, found))


def _quick(arena: Arena, steps: int) -> None:
    for name, search in SEARCHES.items():
        if name in ("AutoPEFT", "Optuna GP", "forest"):
            continue
        began = time.perf_counter()
        volumes = [arena.volume([one.row for one in search(arena, steps, seed)]) for seed in range(3)]
        shares = ", ".join(f"{one / arena.volume(arena.rows):.3f}" for one in volumes)
        print(f"{name:32} {shares}   ({time.perf_counter() - began:.1f} s)")


if __name__ == "__main__":
    main()
