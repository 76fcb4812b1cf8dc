"""Fixed architectures at equal effort, and how far a searched front is beyond them, in deviations of the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from benchmarks.contest.arena import Arena, Finished, trained_by
from benchmarks.contest.measures import interval
from benchmarks.table.baselines import BASELINES, TRIES, name_of
from evaluators.tabulated import Row, Table
from search_space.quantities import format_count

_LEAST_CANDIDATES, _LEAST_SEEDS = 4, 3

_NOISE = 1.96 * sqrt(2)
"""Deviations of the seed that two trainings of equally good candidates differ by at most, in 95 % of cases."""


def seed_deviation(table: Table) -> float | None:
    """Return the standard deviation of test accuracy between seeds; None while too few candidates have several.

    Pooled over the better half, by validation, of the candidates with at least three seeds: what has not learnt
    anything differs from seed to seed in another way than what is compared here.
    """
    at = table.header.quality.index("accuracy")
    several: dict[str, list[Row]] = {}
    for row in table.rows.values():
        if not row.cause:
            several.setdefault(row.candidate.sha256, []).append(row)
    groups = [rows for rows in several.values() if len(rows) >= _LEAST_SEEDS]
    if len(groups) < _LEAST_CANDIDATES:
        return None
    groups.sort(key=lambda rows: -float(np.mean([row.validation[-1][at] for row in rows])))
    better = [np.var([row.test[-1][at] for row in rows], ddof=1) for rows in groups[: len(groups) // 2]]
    return float(np.sqrt(np.mean(better)))


def numbers(arena: Arena, whole: Table, found: Sequence[Sequence[Finished]]) -> dict[str, Any] | str:
    """Return what is told of the baselines, or a sentence on what is missing.

    Args:
        arena: The wide space of the task.
        whole: The task's table with its baselines and seeds.
        found: What each seed of a search trained to the end.
    """
    tries: dict[str, list[Row]] = {name: [] for name in BASELINES}
    for row in whole.of("baseline").main():
        tries[name_of(row.candidate)].append(row)
    if missing := [name for name, rows in tries.items() if len(rows) < TRIES]:
        return f"Not all baselines are trained yet: {', '.join(missing)}."
    if not found:
        return "The search that baselines are compared with has not been run."
    effort = len(BASELINES) * TRIES * arena.full
    searched = [trained_by(seed, effort) for seed in found]
    rows = {name: _compared(arena, name, tries[name], searched) for name in BASELINES}
    return {"deviation": seed_deviation(whole), "effort": effort // arena.full, "seeds": len(found), "baselines": rows}


def _compared(arena: Arena, name: str, tries: Sequence[Row], searched: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Return one baseline beside what the searches pick with at most as many parameters."""
    trained = [row for row in tries if not row.cause]
    if not trained:
        return {"failed": tries[0].message}
    best = max(trained, key=lambda row: arena.values([row])[0, 0])
    rate = best.candidate.recipe.head_learning_rate if name == "head only" else best.candidate.recipe.learning_rates[0]
    data: dict[str, Any] = {"params": best.cost.trainable_params, "rate": rate}
    data |= {split: float(arena.values([best], split)[0, 0]) for split in ("validation", "test")}
    share = best.cost.trainable_params / arena.backbone
    picks = [pick for rows in searched if (pick := arena.best(rows, share)) is not None]
    if len(picks) == len(searched):
        data["searched"] = interval([float(arena.values([pick], "test")[0, 0]) for pick in picks])
    return data


def section(data: Mapping[str, Any], search: str) -> str:
    """Return the text about the baselines."""
    deviation = data["deviation"]
    lines = [
        f"Each baseline at the best of {TRIES} learning rates by validation; *{search}* after as many trainings as "
        f"all baselines took together ({data['effort']}), what validation picks with at most its parameters, "
        f"mean over {data['seeds']} seeds.",
        "",
        "| baseline | parameters | learning rate | validation | test | searched, test | difference, deviations |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in data["baselines"].items():
        if "failed" in one:
            lines.append(f"| {name} | failed: {one['failed']} | | | | | |")
            continue
        lines.append(
            f"| {name} | {format_count(one['params'])} | {one['rate']:g} | {one['validation']:.4f} | {one['test']:.4f} "
            f"| {_searched(one)} | {_deviations(one, deviation)} |"
        )
    return "\n".join(lines) + "\n\n" + _verdict(data)


def _searched(one: Mapping[str, Any]) -> str:
    if "searched" not in one:
        return "nothing as small"
    value, low, high = one["searched"]
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _deviations(one: Mapping[str, Any], deviation: float | None) -> str:
    if "searched" not in one:
        return "–"
    if deviation is None:
        return f"{one['searched'][0] - one['test']:+.4f}"
    low, high = ((end - one["test"]) / deviation for end in one["searched"][1:])
    return f"{(one['searched'][0] - one['test']) / deviation:+.1f} [{low:+.1f}, {high:+.1f}]"


def _verdict(data: Mapping[str, Any]) -> str:
    """Say how the search does beside the baseline that validation prefers, full fine-tuning left aside and not."""
    done = {name: one for name, one in data["baselines"].items() if "searched" in one}
    small = {name: one for name, one in done.items() if name != "full fine-tuning"}
    texts = []
    for title, among in (("The best fixed one", small), ("With full fine-tuning among them it", done)):
        if not among:
            continue
        name = max(among, key=lambda one: among[one]["validation"])
        verdict = _against(among[name], data["deviation"])
        texts.append(f"{title} is {name}; the search **{verdict}**: {_deviations(among[name], data['deviation'])}.")
    if data["deviation"] is None:
        texts.append("Differences are in accuracy: the deviation of the seed is not known, its trainings are missing.")
    else:
        texts.append(
            f"One deviation of the seed is {data['deviation']:.4f} of test accuracy; within {_NOISE:.1f} of them, the "
            "95 % interval of the difference of two trainings, it is a tie."
        )
    return " ".join(texts)


def _against(one: Mapping[str, Any], deviation: float | None) -> str:
    """Say who is better: by more than two trainings differ by chance, both ends of the interval over searches."""
    noise = _NOISE * (deviation or 0.0)
    _, low, high = one["searched"]
    return "beats it" if low - one["test"] > noise else "loses to it" if one["test"] - high > noise else "ties with it"
