"""The best under a budget: when a search gets to what random search has after four times as many trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contest.arena import Arena, Finished, trained_by
from benchmarks.contest.contests import Contest
from benchmarks.contest.measures import interval
from benchmarks.contest.searches import BASELINE, BOUND, OURS

GOAL = 1 / 4
"""Share of random's trainings: 25 of 100."""


def pick_after(arena: Arena, finished: Sequence[Finished], steps: float) -> tuple[float, float]:
    """Return accuracy on validation and on test of what validation picks by then; chance where nothing is done."""
    best = arena.best(trained_by(finished, steps), 1.0)
    if best is None:
        return 1 / arena.classes, 1 / arena.classes
    return float(arena.values([best])[0, 0]), float(arena.values([best], "test")[0, 0])


def trainings_to(arena: Arena, finished: Sequence[Finished], accuracy: float) -> float:
    """Return how many full trainings' steps were spent when validation first reached an accuracy; infinite if never."""
    reached = (one.at / arena.full for one in finished if arena.values([one.row])[0, 0] >= accuracy)
    return next(reached, float("inf"))


def bound(arena: Arena, accuracy: float) -> tuple[int, int]:
    """Return what bounds any search: how many candidates reach an accuracy on validation, and the first one's place.

    The place is that in the order of accuracy on test, best first: how many trainings it takes one who knows how good
    every candidate is, but not the luck that it has with the validation split.
    """
    values, on_test = (arena.values(arena.rows, split)[:, 0] for split in ("validation", "test"))
    reaching = (values >= accuracy)[np.argsort(-on_test, kind="stable")]
    return int(reaching.sum()), int(np.argmax(reaching)) + 1


def numbers(contest: Contest, found: Mapping[str, Sequence[Sequence[Finished]]]) -> dict[str, Any]:
    """Return what is told of a contest under a budget.

    Args:
        contest: The contest.
        found: By search: what each seed trained to the end. Random search has to be among them.
    """
    arena, most = contest.arena, contest.steps // contest.arena.full
    few = GOAL * contest.steps
    ends = {name: [pick_after(arena, one, contest.steps) for one in seeds] for name, seeds in found.items()}
    early = {name: [pick_after(arena, one, few) for one in seeds] for name, seeds in found.items()}
    target = float(np.mean([validation for validation, _ in ends[BASELINE]]))
    reaching, place = bound(arena, target)
    data: dict[str, Any] = {
        "candidates": len(arena.rows),
        "trainings": most,
        "target": target,
        "reaching": reaching,
        "bound": place,
        "searches": {},
    }
    for name, seeds in found.items():
        needed = [min(trainings_to(arena, one, target), 2.0 * most) for one in seeds]
        test = [at_end for _, at_end in ends[BASELINE]]
        data["searches"][name] = {
            "seeds": len(seeds),
            "needed": interval(needed, "median"),
            "in_time": float(np.mean([one <= GOAL * most for one in needed])),
            "validation_early": interval([one for one, _ in early[name]]),
            "test_early": interval([one for _, one in early[name]]),
            "test_early_less_random_end": _difference([one for _, one in early[name]], test),
            "test_end": interval([one for _, one in ends[name]]),
        }
    return data


def section(share: float, data: Mapping[str, Any]) -> str:
    """Return the text about one budget."""
    most = data["trainings"]
    few = f"{GOAL * most:g}"
    lines = [
        f"**At most {share:.1%} of the parameters** ({data['candidates']} candidates of the table). Random search has "
        f"{data['target']:.4f} on validation after {most} trainings, the mean of its seeds. {data['reaching']} "
        f"of these candidates {'has' if data['reaching'] == 1 else 'have'} as much; by accuracy on test the first of "
        f"them is number {data['bound']}.",
        "",
        f"| search | seeds | trainings until there, median | seeds within {few} | validation after {few} "
        f"| test after {few} | less random's after {most} | test after {most} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in data["searches"].items():
        value, low, high = one["test_early_less_random_end"]
        needed = " to ".join(_trainings(end, most) for end in one["needed"][1:])
        lines.append(
            f"| {name} | {one['seeds']} | {_trainings(one['needed'][0], most)} [{needed}] | {one['in_time']:.0%} "
            f"| {one['validation_early'][0]:.4f} | {one['test_early'][0]:.4f} | {value:+.4f} [{low:+.4f}, {high:+.4f}] "
            f"| {one['test_end'][0]:.4f} |"
        )
    return "\n".join(lines) + "\n\n" + _verdict(data, few)


def _verdict(data: Mapping[str, Any], few: str) -> str:
    if OURS not in data["searches"]:
        return f"*{OURS}* has not been run."
    goal = GOAL * data["trainings"]
    reached = _reached(data["searches"][OURS]["needed"], goal)
    beyond = (
        " Nor would one who trained the candidates in the order of their accuracy on test: what random search ends "
        "with is luck with the validation split, which no search can learn."
        if data["bound"] > goal and reached == "not reached"
        else ""
    )
    if BOUND in data["searches"]:
        needed, *ends = (_trainings(one, data["trainings"]) for one in data["searches"][BOUND]["needed"])
        beyond += (
            f" One who knows how every other candidate ends (*{BOUND}*) is there after {needed} [{' to '.join(ends)}]."
        )
    _, worst, best = data["searches"][OURS]["test_early_less_random_end"]
    on_test = "better than" if worst > 0 else "worse than" if best < 0 else "tied with"
    return (
        f"Goal, *{OURS}* there within {few} trainings: **{reached}**.{beyond} "
        f"On test what it picks by then is **{on_test}** what random search picks at its end."
    )


def _reached(needed: Sequence[float], goal: float) -> str:
    """Say whether a goal is reached.

    Args:
        needed: Median over seeds, and the ends of its interval.
        goal: The most that may be needed.
    """
    median, low, high = needed
    if median <= goal:
        return "reached" if high <= goal else "reached in the median, not in its whole interval"
    return "not reached" if low > goal else "not reached in the median, though in its interval"


def _trainings(count: float, most: int) -> str:
    return "never" if count > most else f"{count:.1f}"


def _difference(ours: Sequence[float], others: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Return the difference of two means with its 95 % bootstrap interval, each side resampled on its own."""
    rng = np.random.default_rng(seed)
    means = [np.mean(rng.choice(side, (4000, len(side))), axis=1) for side in (ours, others)]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(np.mean(ours) - np.mean(others)), float(low), float(high)
