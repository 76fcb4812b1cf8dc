"""The contest as tables and pictures, from its journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest.arena import SHARES, Arena
from benchmarks.contest.journal import Entry, digest, read
from benchmarks.contest.measures import CHECKPOINTS, Course, course_of, interval, steps_to
from benchmarks.contest.searches import BASELINE, OURS, RIVAL, SEARCHES
from benchmarks.report import write

PICTURES = Path(__file__).parent.parent / "results"
GOAL, GOAL_HIGH = 1 / 3, 1 / 2


def report(arenas: Sequence[Arena], steps: Mapping[str, int]) -> None:
    """Write `results/contest.json`, the section of the results page, and a picture for each task."""
    sections, results = [], {}
    for arena in arenas:
        entries = [one for one in read() if (one.task, one.table) == (arena.name, digest(arena))]
        entries = [one for one in entries if one.steps == steps[arena.name]]
        if entries:
            results[arena.name], text = _task(arena, entries, steps[arena.name])
            sections.append(text)
    if results:
        write("contest", {"tasks": results}, "## Contest of searches\n\n" + "\n\n".join(sections))


def _task(arena: Arena, entries: Sequence[Entry], steps: int) -> tuple[dict[str, Any], str]:
    by_search: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        by_search[one.search].append(one)
    courses = {
        name: [course_of(arena, one.finished(arena), steps) for one in by_search[name]]
        for name in SEARCHES
        if name in by_search
    }
    picture = PICTURES / f"contest-{arena.name}.png"
    _draw(courses, steps, picture, arena.name)
    goals = _goals(arena, by_search, courses, steps)
    data = {name: _numbers(one) for name, one in courses.items()}
    head = (
        f"### {arena.name}: {len(arena.rows)} candidates, {steps:,} training steps "
        f"({steps // arena.full} full trainings)\n\n![hypervolume over steps](results/{picture.name})\n\n"
    )
    return {"searches": data, "goals": goals, "rows": len(arena.rows), "steps": steps}, head + _table(courses) + _said(
        goals
    )


def _numbers(courses: Sequence[Course]) -> dict[str, Any]:
    return {
        "seeds": len(courses),
        "volume": interval([float(one.volumes[-1]) for one in courses]),
        "volumes": np.mean([one.volumes for one in courses], axis=0).round(5).tolist(),
        "test_volume": interval([one.test_volume for one in courses]),
        "picks": [interval([one.picks[at] for one in courses]) for at in range(len(SHARES))],
        "regrets": [interval([one.regrets[at] for one in courses]) for at in range(len(SHARES))],
        "trained": float(np.mean([one.trained for one in courses])),
    }


def _goals(
    arena: Arena, by_search: Mapping[str, list[Entry]], courses: Mapping[str, list[Course]], steps: int
) -> dict[str, Any]:
    """Return what was to be reached: AutoPEFT's end in a third of its steps, and never below random."""
    goals: dict[str, Any] = {}
    if {OURS, RIVAL} <= set(courses):
        end = float(np.mean([one.volumes[-1] for one in courses[RIVAL]]))
        needed = [steps_to(arena, one.finished(arena), end, steps) / steps for one in by_search[OURS]]
        shares = [min(one, 2.0) for one in needed]  # a search that never gets there counts as twice the budget
        goals["share_of_rivals_steps"] = interval(shares, "median")
        goals["never_there"] = sum(one > 1 for one in needed)
    if {OURS, BASELINE} <= set(courses):
        mean = {name: np.mean([one.volumes for one in courses[name]], axis=0) for name in (OURS, BASELINE)}
        goals["checkpoints_below_random"] = int((mean[OURS] < mean[BASELINE]).sum())
    return goals


def _said(goals: Mapping[str, Any]) -> str:
    lines = []
    if "share_of_rivals_steps" in goals:
        value, low, high = goals["share_of_rivals_steps"]
        reached = "reached" if value <= GOAL and high < GOAL_HIGH else "not reached"
        lines.append(
            f"{OURS} gets to {RIVAL}'s final hypervolume in {value:.2f} [{low:.2f}, {high:.2f}] of its steps (median "
            f"over seeds; goal: at most 1/3, interval below 1/2): **{reached}**; {goals['never_there']} seeds never do."
        )
    if "checkpoints_below_random" in goals:
        count = goals["checkpoints_below_random"]
        verdict = "reached" if count == 0 else "not reached"
        lines.append(f"Its mean is below random's at {count} of {CHECKPOINTS} checkpoints (goal: none): **{verdict}**.")
    return "\n\n" + "\n".join(lines) if lines else ""


def _table(courses: Mapping[str, list[Course]]) -> str:
    limits = " | ".join(f"best ≤ {share:.1%}" for share in SHARES)
    lines = [f"| search | seeds | hypervolume | on test | {limits} | trained to the end |"]
    lines.append("|" + "---|" * (5 + len(SHARES)))
    for name, several in courses.items():
        numbers = _numbers(several)
        picks = " | ".join(f"{one[0]:.3f}" for one in numbers["picks"])
        value, low, high = numbers["volume"]
        test, *_ = numbers["test_volume"]
        lines.append(
            f"| {name} | {numbers['seeds']} | {value:.3f} [{low:.3f}, {high:.3f}] | {test:.3f} | {picks} "
            f"| {numbers['trained']:.0f} |"
        )
    legend = (
        "Hypervolume: share of what the whole table holds, of the front that validation chose, with its 95 % interval "
        "over seeds; accuracy from guessing to 1, trainable parameters by logarithm up to the budget. Best: test "
        "accuracy of what validation picks under a share of the backbone's parameters."
    )
    return "\n".join(lines) + "\n\n" + legend


def _draw(courses: Mapping[str, list[Course]], steps: int, path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    marks = np.arange(1, CHECKPOINTS + 1) / CHECKPOINTS * steps
    for name, several in courses.items():
        bands = [interval([one.volumes[at] for one in several]) for at in range(CHECKPOINTS)]
        (line,) = axes.plot(marks, [one[0] for one in bands], label=name, lw=2.5 if name == OURS else 1.2)
        axes.fill_between(
            marks, [one[1] for one in bands], [one[2] for one in bands], alpha=0.12, color=line.get_color()
        )
    axes.set(xlabel="training steps", ylabel="share of the table's hypervolume", title=title)
    axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
