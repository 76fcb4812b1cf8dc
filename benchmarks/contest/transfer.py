"""The front of one task re-used on another, beside what a search finds there by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest.arena import SHARES, Arena, Finished, trained_by
from benchmarks.contest.measures import interval
from evaluators.tabulated import Row, Table


def numbers(
    home: Arena, away: Arena, there: Table, found: Sequence[Sequence[Finished]], steps: int
) -> dict[str, Any] | str:
    """Return what is told of a front that is carried over, or a sentence on what is missing.

    Args:
        home: Where the front was found.
        away: Where it is re-used.
        there: The whole table of that task.
        found: What each seed of a search trained to the end there.
        steps: The budget of these searches.
    """
    front = home.front(home.rows)
    rows = [there.rows.get((row.candidate.sha256, 0)) for row in front]
    carried = [row for row in rows if row is not None]
    if len(carried) < len(front):
        return f"Of the {len(front)} members of {home.name}'s front {len(carried)} are trained on {away.name}."
    if not found:
        return f"No search has been run on {away.name}."
    few = len(carried) * away.full
    return {
        "members": len(front),
        "trainings": steps // away.full,
        "carried": _measured(away, [carried]),
        "native, as many trainings": _measured(away, [trained_by(one, few) for one in found]),
        "native, whole budget": _measured(away, [trained_by(one, steps) for one in found]),
    }


def section(home: str, away: str, data: Mapping[str, Any]) -> str:
    """Return the text about one direction."""
    limits = " | ".join(f"best ≤ {share:.1%}" for share in SHARES)
    names = {
        "carried": f"{home}'s front, {data['members']} trainings",
        "native, as many trainings": f"search on {away}, {data['members']} trainings",
        "native, whole budget": f"search on {away}, {data['trainings']} trainings",
    }
    lines = [f"| front on {away} | hypervolume | on test | {limits} |", "|---|---:|---:|" + "---:|" * len(SHARES)]
    for key, title in names.items():
        one = data[key]
        picks = " | ".join(f"{value:.4f}" for value, *_ in one["picks"])
        lines.append(f"| {title} | {_told(one['volume'])} | {_told(one['test_volume'])} | {picks} |")
    return "\n".join(lines)


def _measured(arena: Arena, seeds: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Return hypervolume as a share of the table's, and the test accuracy of what validation picks, over seeds."""
    volumes = {split: [arena.volume(rows, split) for rows in seeds] for split in ("validation", "test")}
    whole = {split: arena.volume(arena.rows, split) for split in volumes}
    picks = [[arena.best(rows, share) for rows in seeds] for share in SHARES]
    chance = 1 / arena.classes
    return {
        "volume": interval([one / whole["validation"] for one in volumes["validation"]]),
        "test_volume": interval([one / whole["test"] for one in volumes["test"]]),
        "picks": [
            interval([float(arena.values([one], "test")[0, 0]) if one else chance for one in several])
            for several in picks
        ],
    }


def _told(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f}" if value[1] == value[2] else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
