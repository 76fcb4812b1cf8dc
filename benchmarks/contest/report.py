"""The contest as tables and pictures, from its journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import budget, fixed, transfer
from benchmarks.contest.arena import SHARES, Arena, Finished
from benchmarks.contest.contests import Contest, contests
from benchmarks.contest.informed import in_order_of_test
from benchmarks.contest.journal import Entry, digest, read
from benchmarks.contest.measures import (
    CHECKPOINTS,
    NEVER,
    Course,
    course_of,
    interval,
    reached,
    said,
    said_share,
    spread,
    steps_to,
)
from benchmarks.contest.searches import BASELINE, BOUND, OURS, RIVAL
from benchmarks.report import write
from benchmarks.table.plan import Stage
from benchmarks.table.tasks import table_path
from evaluators.tabulated import Row, Table

PICTURES = Path(__file__).parent.parent / "results"
GOAL, GOAL_HIGH = 1 / 3, 1 / 2
_NEARLY = 0.99
"""Share of the final hypervolume: where a table is all but exhausted, its end is a matter of one candidate."""
OF_AUTOPEFT = (
    "AutoPEFT's Gaussian process is ours to its paper: where the paper samples the SAAS prior with NUTS, the scales of "
    "several kernels are fitted to their modes here (BoTorch's additive MAP SAAS)."
)
IS_BOUND = (
    "is no search: for each candidate a forest is fitted to how all others end, what it makes of that gives the order, "
    "and candidates are stopped as ours are."
)
_OF_THE_TABLE = "share of the table's hypervolume"
_COLOURS = 10
"""Matplotlib's colours; then they begin again."""


def report(tasks: Sequence[str]) -> None:
    """Write `results/contest.json`, the section of the results page, and a picture for each front contest."""
    held = read()
    sections, results = [], {}
    for task in tasks:
        if parts := dict(_parts(task, list(contests(task)), held)):
            results[task] = {title: data for title, (data, _) in parts.items()}
            sections += [f"### {title}\n\n{text}" for title, (_, text) in parts.items()]
    for home, away in permutations(tasks, 2):
        if found := _carried(home, away, held):
            results[f"{home} to {away}"], text = found
            sections.append(f"### The front of {home} on {away}\n\n{text}")
    if results:
        write("contest", {"tasks": results}, "## Contest of searches\n\n" + "\n\n".join(sections))


def _parts(task: str, all_of_task: Sequence[Contest], held: Sequence[Entry]) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yield what is told of a task, by title."""
    for one in all_of_task:
        entries = _entries(one, held)
        if entries and one.kind != "budget":
            yield one.arena.name, _front_contest(one, entries)
    budgets = [one for one in all_of_task if one.kind == "budget" and BASELINE in _found(one, held)]
    if budgets:
        told = {one.arena.name: budget.numbers(one, _found(one, held)) for one in budgets}
        texts = [
            budget.section(one.arena.limit / one.arena.backbone, data)
            for one, data in zip(budgets, told.values(), strict=True)
        ]
        yield f"{task}: the best under a budget", (told, "\n\n".join(texts))
    for one in all_of_task:
        if one.kind == "front" and _entries(one, held):
            whole = Table.read(table_path(task))
            data = fixed.numbers(one.arena, whole, _found(one, held).get(OURS, []))
            yield f"{task}: fixed architectures", (data, data if isinstance(data, str) else fixed.section(data, OURS))


def _carried(home: str, away: str, held: Sequence[Entry]) -> tuple[Any, str] | None:
    """Return what is told of one task's front on another; None where one of them has no contest."""
    first = next((one for one in contests(home) if one.kind == "front"), None)
    second = next((one for one in contests(away) if one.kind == "front"), None)
    if first is None or second is None:
        return None
    if Stage(home, "wide").left():
        text = f"The wide space of {home} is not trained to its end: its front is not known."
        return text, text
    found = _found(second, held).get(OURS, [])
    data = transfer.numbers(first.arena, second.arena, Table.read(table_path(away)), found, second.steps)
    return data, data if isinstance(data, str) else transfer.section(home, away, data)


def _entries(contest: Contest, held: Sequence[Entry]) -> list[Entry]:
    wanted = (contest.arena.name, digest(contest.arena), contest.steps)
    return [one for one in held if (one.task, one.table, one.steps) == wanted]


def _found(contest: Contest, held: Sequence[Entry]) -> dict[str, list[list[Finished]]]:
    """Return what each seed of each search trained to the end."""
    entries = _entries(contest, held)
    names = [name for name in contest.searches if any(one.search == name for one in entries)]
    return {name: [one.finished(contest.arena) for one in entries if one.search == name] for name in names}


def _front_contest(contest: Contest, entries: Sequence[Entry]) -> tuple[dict[str, Any], str]:
    arena, steps = contest.arena, contest.steps
    by_search: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        by_search[one.search].append(one)
    courses = {
        name: [course_of(arena, one.finished(arena), steps) for one in by_search[name]]
        for name in contest.searches
        if name in by_search
    }
    picture = PICTURES / f"contest-{arena.name.replace(', space of ', '-')}.png"
    draw(courses, steps, picture, arena.name)
    goals = _goals(arena, by_search, courses, steps)
    data = {name: numbers_of(one) for name, one in courses.items()}
    head = (
        f"{len(arena.rows)} candidates, {steps:,} training steps ({steps // arena.full} full trainings)\n\n"
        f"![hypervolume over steps](results/{picture.name})\n\n"
    )
    text = head + table(courses) + "\n\n" + _legend(courses) + _said(goals)
    return {"searches": data, "goals": goals, "rows": len(arena.rows), "steps": steps}, text


def numbers_of(courses: Sequence[Course]) -> dict[str, Any]:
    """Return what a search came to over its seeds; values with their intervals, as `measures.Spread`."""
    return {
        "seeds": len(courses),
        "volume": spread([float(one.volumes[-1]) for one in courses]),
        "volumes": np.mean([one.volumes for one in courses], axis=0).round(5).tolist(),
        "test_volume": spread([one.test_volume for one in courses]),
        "picks": [spread([one.picks[at] for one in courses]) for at in range(len(SHARES))],
        "regrets": [spread([one.regrets[at] for one in courses]) for at in range(len(SHARES))],
        "trained": float(np.mean([one.trained for one in courses])),
    }


def _goals(
    arena: Arena, by_search: Mapping[str, list[Entry]], courses: Mapping[str, list[Course]], steps: int
) -> dict[str, Any]:
    """Return when ours is where each other search ends, and what was to be reached: a third, and never below random."""
    goals: dict[str, Any] = {}
    found = {name: [one.finished(arena) for one in by_search[name]] for name in (OURS, RIVAL, BOUND) if name in courses}
    if OURS in courses:
        others = {name: one for name, one in courses.items() if name not in (OURS, BOUND)}
        goals["reached"] = {name: asdict(one) for name, one in reached(arena, found[OURS], others, steps).items()}
    if {OURS, RIVAL} <= set(courses):
        nearly = _NEARLY * goals["reached"][RIVAL]["final"]
        goals["nearly_there"] = {
            name: interval([min(steps_to(arena, one, [nearly], steps)[0] / steps, NEVER) for one in several], "median")
            for name, several in found.items()
            if name != BOUND
        }
    if {RIVAL, BOUND} <= set(courses):
        goals["bound"] = asdict(reached(arena, found[BOUND], {RIVAL: courses[RIVAL]}, steps)[RIVAL])
    if {OURS, RIVAL} <= set(courses):
        goals["by_test"] = _by_test(arena, goals["reached"][RIVAL]["final"])
    if {OURS, BASELINE} <= set(courses):
        goals["checkpoints_below_random"] = _below(courses[OURS], courses[BASELINE])
    return goals


def _by_test(arena: Arena, final: float) -> int:
    """Return after how many trainings one holds a share of the table's hypervolume who trains in the order of test."""
    held, target = list[Row](), final * arena.volume(arena.rows)
    for row in in_order_of_test(arena):
        held.append(row)
        if arena.volume(held) >= target:
            break
    return len(held)


def _below(some: Sequence[Course], others: Sequence[Course]) -> int:
    """Return at how many checkpoints the mean volume of a search is below another's."""
    mean, mean_of_others = (np.mean([one.volumes for one in several], axis=0) for several in (some, others))
    return int((mean < mean_of_others).sum())


def _said(goals: Mapping[str, Any]) -> str:
    lines = [reached_table(OURS, goals["reached"])] if goals.get("reached") else []
    if "nearly_there" in goals:
        rival = goals["reached"][RIVAL]
        value, _, high = rival["share"]
        verdict = "reached" if value <= GOAL and high is not None and high < GOAL_HIGH else "not reached"
        lines.append(
            f"{OURS} gets to {RIVAL}'s final hypervolume in {said_share(rival['share'])} of its steps "
            f"(median over seeds; goal: at most 1/3, interval below 1/2): **{verdict}**; {rival['never']} seeds "
            f"never do. To {_NEARLY:.0%} of it: {said_share(goals['nearly_there'][OURS])}, {RIVAL} itself "
            f"{said_share(goals['nearly_there'][RIVAL])}."
        )
    if "by_test" in goals:
        lines.append(
            f"One who trains the candidates in the order of what each adds on test to those before it is there after "
            f"{goals['by_test']} trainings. To be there sooner takes luck with the validation split."
        )
    if "bound" in goals:
        lines.append(
            f"*{BOUND}* gets there in {said_share(goals['bound']['share'])}; {goals['bound']['never']} seeds never do. "
            "That is what a forest makes of a candidate's numbers when it was told how all others end. It is no strict "
            "bound: under some budgets a search that learns is there before it."
        )
    if "checkpoints_below_random" in goals:
        count = goals["checkpoints_below_random"]
        verdict = "reached" if count == 0 else "not reached"
        lines.append(f"Its mean is below random's at {count} of {CHECKPOINTS} checkpoints (goal: none): **{verdict}**.")
    return "\n\n" + "\n\n".join(lines) if lines else ""


def reached_table(search: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return when a search is where each other one ends, as a table.

    Args:
        search: Its name.
        found: A `Reached` as a mapping, by the other's name.
    """
    lines = [
        f"| where this one ends | hypervolume | {search} is there after | seeds that never are |",
        "|---|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(f"| {name} | {one['final']:.3f} | {said_share(one['share'])} | {one['never']} |")
    return "\n".join(lines) + "\n\nAfter: share of the budget of steps, median over seeds with its 95 % interval."


def table(courses: Mapping[str, list[Course]]) -> str:
    """Return what searches came to, one a row."""
    limits = " | ".join(f"best ≤ {share:.1%}" for share in SHARES)
    lines = [f"| search | seeds | hypervolume | on test | {limits} | regret | trained to the end |"]
    lines.append("|" + "---|" * (6 + len(SHARES)))
    for name, several in courses.items():
        numbers = numbers_of(several)
        picks = " | ".join(f"{one[0]:.3f}" for one in numbers["picks"])
        test, *_ = numbers["test_volume"]
        lines.append(
            f"| {name} | {numbers['seeds']} | {said(numbers['volume'])} | {test:.3f} | {picks} "
            f"| {np.mean([one[0] for one in numbers['regrets']]):+.4f} | {numbers['trained']:.0f} |"
        )
    return "\n".join(lines)


def _legend(courses: Mapping[str, list[Course]]) -> str:
    legend = (
        "Hypervolume: share of what the whole table holds, of the front that validation chose, with its 95 % interval "
        "over seeds; accuracy from guessing to 1, trainable parameters by logarithm up to the budget. Best: test "
        "accuracy of what validation picks under a share of the backbone's parameters. Regret: how far these picks are "
        "behind those from the whole table, on test, mean of the limits."
    )
    if "Optuna NSGA-II" in courses:
        legend += (
            " Optuna's NSGA-II crosses what all trials have in common. That is the method alone here, and one "
            "parameter is always mutated: it draws at random."
        )
    if BOUND in courses:
        legend += f" *{BOUND}* {IS_BOUND}"
    return legend + (f" {OF_AUTOPEFT}" if RIVAL in courses else "")


def draw(courses: Mapping[str, list[Course]], steps: int, path: Path, title: str, label: str = _OF_THE_TABLE) -> None:
    """Draw the hypervolume of searches over steps with its intervals over seeds.

    Args:
        courses: Searches, for each seed, by name; the first is drawn broad.
        steps: The budget.
        path: Of the picture.
        title: Of the picture.
        label: What the hypervolume is a share of.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    marks = np.arange(1, CHECKPOINTS + 1) / CHECKPOINTS * steps
    for at, (name, several) in enumerate(courses.items()):
        style = "-" if at < _COLOURS else "--"
        bands = [interval([one.volumes[mark] for one in several]) for mark in range(CHECKPOINTS)]
        (line,) = axes.plot(marks, [one[0] for one in bands], label=name, lw=1.2 if at else 2.5, ls=style)
        axes.fill_between(
            marks, [one[1] for one in bands], [one[2] for one in bands], alpha=0.12, color=line.get_color()
        )
    axes.set(xlabel="training steps", ylabel=label, title=title)
    axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
