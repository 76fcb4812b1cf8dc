"""The front as a picture, drawn by matplotlib: the same bytes for the same front."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from orchestrator.figures.chart import WORDS, Chart, Dot, chart_of

if TYPE_CHECKING:
    from orchestrator.trial import Trial

INK, GREY, FAINT, GRID, RED = "#1f2430", "#5b6270", "#9aa1ad", "#eceef2", "#d1495b"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "paretune",
}
_FAINT_MARKERS = {"partial": "o", "infeasible": "x", "failed": "x", "paused": "s", "running": "."}
_REFERENCES = {"head": ("s", "head only"), "full": ("*", "full fine-tuning")}
_OTHER_REFERENCE = ("p", "")
_PREDICTORS = {
    "seeds": ("^", "ensemble of seeds"),
    "front": ("v", "ensemble of the front"),
    "dropout": ("<", "MC-dropout"),
    "laplace": (">", "Laplace"),
    "laplace_diagonal": ("d", "Laplace, adapter, diagonal"),
    "laplace_kronecker": ("p", "Laplace, adapter, Kronecker"),
}
"""Marker and name of each kind of predictor."""


def pareto_png(
    front: Mapping[str, Any], trials: Sequence[Trial], references: Sequence[Trial] = (), dpi: int = 160
) -> bytes:
    """Return a picture of a front as PNG.

    Args:
        front: JSON data of a `Front`.
        trials: Trials of the search, in any state.
        references: Reference rows; only complete ones are shown.
        dpi: Pixels for each of 9.5 x 5.2 inches.
    """
    chart = chart_of(front, trials, references)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, chart)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=dpi, metadata={"Software": None})
    return data.getvalue()


def _draw(axes: Axes, chart: Chart) -> None:
    _draw_axes(axes, chart)
    _draw_faint(axes, chart)
    _draw_front(axes, chart)
    _draw_candidates(axes, chart)
    _draw_finalists(axes, chart)
    _draw_references(axes, chart)
    _draw_predictors(axes, chart)
    _draw_pick(axes, chart)
    _draw_legend(axes, chart)


def _draw_axes(axes: Axes, chart: Chart) -> None:
    axes.set_title(chart.title, loc="left", fontsize=14, fontweight="bold", pad=26)
    axes.text(0, 1.035, chart.subtitle, transform=axes.transAxes, fontsize=9.5, color=GREY)
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    if chart.x.logarithmic:
        axes.set_xscale("log")
        axes.set_xticks([value for value, _ in chart.x.ticks], [text for _, text in chart.x.ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    axes.grid(color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    for place in chart.x.breaks:
        axes.text(
            place, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center", color=GREY, fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=8,
        )  # fmt: skip
    if chart.limit is not None:
        axes.axvline(chart.limit, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            "budget", (chart.limit, 0.02), xycoords=axes.get_xaxis_transform(), xytext=(4, 0), rotation=90,
            textcoords="offset points", fontsize=8.5, color=GREY, va="bottom",
        )  # fmt: skip


def _draw_faint(axes: Axes, chart: Chart) -> None:
    for tag, marker in _FAINT_MARKERS.items():
        look = {"facecolors": "none", "edgecolors": FAINT} if marker in ("o", "s") else {"color": FAINT}
        _scatter(axes, chart.tagged(tag), marker=marker, s=26, linewidths=0.9, zorder=2, **look)
    axes.scatter(chart.untrained, [chart.y.low] * len(chart.untrained), marker="|", s=90, color=FAINT, zorder=2)


def _draw_front(axes: Axes, chart: Chart) -> None:
    if chart.stairs:
        x, y = zip(*chart.stairs, strict=True)
        axes.plot(x, y, color=INK, linewidth=1.4, solid_capstyle="butt", zorder=3)


def _draw_candidates(axes: Axes, chart: Chart) -> None:
    for group in chart.groups:
        color, hybrid = chart.style(group)
        look: dict[str, Any] = {"marker": "D" if hybrid else "o", "color": color}
        dots = [dot for dot in chart.dots if dot.group == group]
        size = 62 if hybrid else 80
        rest = [dot for dot in dots if dot.tag == "dominated"]
        _scatter(axes, rest, s=size * 0.55, alpha=0.55, linewidths=0, zorder=4, **look)
        best = [dot for dot in dots if dot.tag == "front"]
        _scatter(axes, best, s=size, edgecolors=INK, linewidths=1.2, zorder=6, **look)


def _draw_finalists(axes: Axes, chart: Chart) -> None:
    if not chart.bars:
        return
    mean = [bar.mean for bar in chart.bars]
    reach = [[bar.mean - bar.low for bar in chart.bars], [bar.high - bar.mean for bar in chart.bars]]
    axes.errorbar(
        [bar.x for bar in chart.bars], mean, yerr=reach, fmt="_", color=INK, ecolor=GREY, elinewidth=1.1, capsize=3,
        markersize=8, markeredgewidth=1.6, zorder=5,
    )  # fmt: skip


def _draw_references(axes: Axes, chart: Chart) -> None:
    for dot in chart.references:
        marker, _ = _REFERENCES.get(dot.group, _OTHER_REFERENCE)
        size = 150 if marker == "*" else 70
        _scatter(axes, [dot], marker=marker, s=size, facecolors="white", edgecolors=INK, linewidths=1.3, zorder=6)


def _draw_predictors(axes: Axes, chart: Chart) -> None:
    for kind, (marker, _) in _PREDICTORS.items():
        dots = [dot for dot in chart.predictors if dot.group == kind]
        _scatter(axes, dots, marker=marker, s=60, facecolors="none", edgecolors=RED, linewidths=1.4, zorder=6)


def _draw_pick(axes: Axes, chart: Chart) -> None:
    if chart.pick:
        _scatter(axes, [chart.pick], marker="o", s=330, facecolors="none", edgecolors=RED, linewidths=2.0, zorder=7)


def _draw_legend(axes: Axes, chart: Chart) -> None:
    """Write the legend in an order of its own: the front, what is on it, what stands beside it, what does not count."""
    entries = [*_front_entries(chart), *_group_entries(chart), *_reference_entries(chart)]
    entries += [*_predictor_entries(chart), *_faint_entries(chart)]
    axes.legend(
        handles=entries, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelspacing=0.6,
        handletextpad=0.5, borderaxespad=0.0,
    )  # fmt: skip


def _front_entries(chart: Chart) -> list[Line2D]:
    entries = [Line2D([], [], color=INK, linewidth=1.4, label="Pareto front")] if chart.stairs else []
    if chart.pick:
        ring = {"markerfacecolor": "none", "markeredgecolor": RED, "markeredgewidth": 1.8, "markersize": 11}
        entries.append(_entry(f"pick: trial {chart.pick.number}", "o", **ring))
    if chart.bars:
        entries.append(_entry("finalists: mean, 95 %", "_", markeredgecolor=INK, markeredgewidth=1.6, markersize=9))
    return entries


def _group_entries(chart: Chart) -> list[Line2D]:
    styles = ((group, *chart.style(group)) for group in chart.groups)
    return [_entry(group, "D" if hybrid else "o", color=color, markersize=7) for group, color, hybrid in styles]


def _predictor_entries(chart: Chart) -> list[Line2D]:
    kinds = {dot.group for dot in chart.predictors}
    look = {"markerfacecolor": "none", "markeredgecolor": RED, "markeredgewidth": 1.4, "markersize": 7}
    return [_entry(label, marker, **look) for kind, (marker, label) in _PREDICTORS.items() if kind in kinds]


def _reference_entries(chart: Chart) -> list[Line2D]:
    entries = []
    for dot in chart.references:
        marker, label = _REFERENCES.get(dot.group, (_OTHER_REFERENCE[0], dot.group))
        size = 10 if marker == "*" else 7
        look = {"markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 1.2, "markersize": size}
        entries.append(_entry(label, marker, **look))
    return entries


def _faint_entries(chart: Chart) -> list[Line2D]:
    look = {"markerfacecolor": "none", "markeredgecolor": FAINT, "markersize": 6}
    counts = {tag: len(chart.tagged(tag)) for tag in _FAINT_MARKERS}
    entries = [_entry(f"{WORDS[tag]} ({count})", _FAINT_MARKERS[tag], **look) for tag, count in counts.items() if count]
    if chart.untrained:
        entries.append(_entry(f"over budget, not trained ({len(chart.untrained)})", "|", **{**look, "markersize": 9}))
    return entries


def _entry(label: str, marker: str, **look: Any) -> Line2D:
    return Line2D([], [], linestyle="none", marker=marker, label=label, **look)


def _scatter(axes: Axes, dots: Sequence[Dot], **look: Any) -> None:
    axes.scatter([dot.x for dot in dots], [dot.y for dot in dots], **look)
