"""Pictures of the findings, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.small_data import plan
from benchmarks.small_data.measures import JUDGED

COLORS = ("#332288", "#88ccee", "#44aa99", "#117733", "#cc6677", "#aa4499")
"""Paul Tol's muted colours, one for each method."""
NAMES = {"test": "film reviews", "amazon": "products", "nyt": "editorials", "tweets": "tweets"}
Rows = Sequence[Mapping[str, Any]]


def draw(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw every picture that the findings have data for. Returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, drawer, data in (
        ("sizes.png", _sizes, found["grid"]),
        ("shift.png", _shift, [row for row in found["grid"] if row["task"] == "movie"]),
        ("search.png", _search, found["search"]),
    ):
        if data:
            figure = Figure(figsize=(9.5, 4.2), layout="constrained")
            FigureCanvasAgg(figure)
            drawer(figure, data)
            figure.savefig(folder / name, dpi=110, metadata={"Software": None})
            made.append(name)
    return made


def _sizes(figure: Figure, rows: Rows) -> None:
    """NLL on test against training examples, before and after the temperature."""
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(plan.TASKS))), plan.TASKS, strict=True):
        for color, name in zip(COLORS, plan.METHODS, strict=True):
            own = [row for row in rows if (row["task"], row["role"], row["method"]) == (task, "test", name)]
            sizes = [row["size"] for row in own]
            axes.plot(sizes, [row["nll_after"] for row in own], color=color, marker="o", markersize=4, label=name)
            axes.plot(sizes, [row["nll"] for row in own], color=color, linestyle=":", linewidth=1.2)
        axes.set(xscale="log", title=task, xlabel="training examples", ylabel="NLL on test, nats")
        axes.set_xticks(plan.SIZES, [f"{size:,}" for size in plan.SIZES])
        axes.minorticks_off()
        _plain(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle("after the temperature (solid) and before it (dotted)", fontsize=10)


def _shift(figure: Figure, rows: Rows) -> None:
    """Debiased calibration error at home and elsewhere, before and after the temperature of home."""
    size = max(row["size"] for row in rows)
    for axes, (key, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("debiased", "before"), ("debiased_after", "after the temperature of film reviews")),
        strict=True,
    ):
        for number, (color, name) in enumerate(zip(COLORS, plan.METHODS, strict=True)):
            own = {row["role"]: row for row in rows if row["size"] == size and row["method"] == name}
            places = [at + (number - 2.5) * 0.13 for at, role in enumerate(JUDGED) if role in own]
            axes.bar(places, [own[role][key] for role in JUDGED if role in own], 0.12, color=color, label=name)
        axes.set_xticks(range(len(JUDGED)), [NAMES[role] for role in JUDGED])
        axes.axhline(0, color="#9aa1ad", linewidth=0.8)
        axes.set_title(f"{title}, {size:,} examples", fontsize=10)
        _plain(axes)
    axes.legend(frameon=False, fontsize=8)
    figure.supylabel("squared calibration error, debiased", fontsize=10)


def _search(figure: Figure, found: Mapping[str, Any]) -> None:
    """Each candidate of the search: what accuracy on validation says, and what it is worth on test."""
    for axes, (task, one) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
        points = one["points"]
        x = [1.0 - point["validation"]["accuracy"] for point in points]
        axes.scatter(x, [point["nll_after"] for point in points], s=24, color="#88ccee", edgecolors="#332288")
        for (rule, pick), marker in zip(one["picks"].items(), ("s", "D"), strict=True):
            own = next(point for point in points if point["candidate"] == pick["candidate"])
            at = (1.0 - own["validation"]["accuracy"], own["nll_after"])
            axes.scatter(*at, s=110, marker=marker, facecolors="none", edgecolors="#cc6677", linewidths=2, label=rule)
        if one["ensemble"]:
            axes.axhline(
                one["ensemble"]["nll_after"], color="#117733", linestyle="--", linewidth=1, label="ensemble of 5"
            )
        axes.set(title=task, xlabel="accuracy on validation", ylabel="NLL on test after the temperature")
        axes.legend(frameon=False, fontsize=8, title="chosen by", title_fontsize=8)
        _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(color="#eceef2", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
