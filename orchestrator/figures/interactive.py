"""The front as a page: every trial a point to hover over, in one file that opens without a network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from orchestrator.figures.chart import WORDS, Axis, Chart, Dot, chart_of

if TYPE_CHECKING:
    from orchestrator.trial import Trial

INK, GREY, FAINT, GRID = "#1f2430", "#5b6270", "#9aa1ad", "#eceef2"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_FAINT_TAGS = {
    "partial": "circle-open",
    "infeasible": "x-thin-open",
    "failed": "x-thin-open",
    "paused": "square-open",
    "running": "circle-dot",
}
_PREDICTOR_MARKERS = {
    "seeds": ("triangle-up-open", "ensemble of seeds"),
    "front": ("triangle-down-open", "ensemble of the front"),
    "dropout": ("triangle-left-open", "MC-dropout"),
    "laplace": ("triangle-right-open", "Laplace"),
    "laplace_diagonal": ("triangle-ne-open", "Laplace, adapter, diagonal"),
    "laplace_kronecker": ("triangle-se-open", "Laplace, adapter, Kronecker"),
}
_REFERENCE_MARKERS = {"head": "square", "full": "star"}
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "pareto"},
}
_FIT = """
const plot = document.getElementById('{plot_id}');
const narrow = {'legend.orientation': 'h', 'legend.x': 0, 'legend.y': -0.18, 'legend.yanchor': 'top'};
const wide = {'legend.orientation': 'v', 'legend.x': 1.02, 'legend.y': 1, 'legend.yanchor': 'top'};
const fit = () => Plotly.relayout(plot, window.innerWidth < 760 ? narrow : wide);
window.addEventListener('resize', fit);
fit();
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body, body > div {{ margin: 0; height: 100%; background: #fff }} #pareto {{ min-height: 420px }}</style>
</head>
<body>
{figure}
</body>
</html>
"""


def pareto_figure(front: Mapping[str, Any], trials: Sequence[Trial], references: Sequence[Trial] = ()) -> go.Figure:
    """Return an interactive figure of a front.

    Args:
        front: JSON data of a `Front`.
        trials: Trials of the search, in any state.
        references: Reference rows; only complete ones are shown.
    """
    chart = chart_of(front, trials, references)
    figure = go.Figure(layout=_layout(chart))
    figure.add_traces([*_stairs(chart), *_candidates(chart), *_finalists(chart), *_beside(chart), *_faint(chart)])
    _add_limit(figure, chart)
    _add_breaks(figure, chart)
    return figure


def pareto_html(front: Mapping[str, Any], trials: Sequence[Trial], references: Sequence[Trial] = ()) -> str:
    """Return a page that holds the figure and all that it needs."""
    figure = pareto_figure(front, trials, references)
    inner = figure.to_html(
        config=_CONFIG,
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        default_width="100%",
        default_height="100%",
        div_id="pareto",
        post_script=_FIT,
    )
    return _PAGE.format(title=html.escape(f"{front['study']}: Pareto front"), figure=inner)


def _faint(chart: Chart) -> list[go.Scatter]:
    """Trials that do not count, one legend entry each; and the costs of those that were never trained, as a rug."""
    traces = []
    for tag, symbol in _FAINT_TAGS.items():
        if dots := chart.tagged(tag):
            marker = {"symbol": symbol, "size": 7, "color": FAINT, "opacity": 0.7}
            traces.append(_scatter(dots, f"{WORDS[tag]} ({len(dots)})", marker))
    if chart.untrained:
        marker = {"symbol": "line-ns-open", "size": 9, "color": FAINT}
        trace = go.Scatter(
            x=chart.untrained, y=[chart.y.low] * len(chart.untrained), mode="markers", marker=marker,
            name=f"over budget, not trained ({len(chart.untrained)})", hoverinfo="skip",
        )  # fmt: skip
        traces.append(trace)
    return traces


def _stairs(chart: Chart) -> list[go.Scatter]:
    if not chart.stairs:
        return []
    x, y = zip(*chart.stairs, strict=True)
    line = {"color": INK, "width": 1.5}
    return [go.Scatter(x=x, y=y, mode="lines", line=line, name="Pareto front", hoverinfo="skip")]


def _candidates(chart: Chart) -> list[go.Scatter]:
    """Fully trained candidates, one legend entry for each kind; members of the front are larger and outlined."""
    traces = []
    for group in chart.groups:
        color, hybrid = chart.style(group)
        look = {"symbol": "diamond" if hybrid else "circle", "color": color}
        dots = [dot for dot in chart.dots if dot.group == group]
        rest = _scatter([dot for dot in dots if dot.tag == "dominated"], group, {**look, "size": 9, "opacity": 0.55})
        outlined = {**look, "size": 13, "line": {"color": INK, "width": 1.5}}
        best = _scatter([dot for dot in dots if dot.tag == "front"], group, outlined)
        # An empty trace makes the legend's symbol, whichever of the two there are.
        entry = go.Scatter(x=[None], y=[None], mode="markers", marker={**look, "size": 10}, name=html.escape(group))
        traces += [one.update(legendgroup=group, showlegend=one is entry) for one in (entry, rest, best)]
    return traces


def _finalists(chart: Chart) -> list[go.Scatter]:
    if not chart.bars:
        return []
    reach = {
        "array": [bar.high - bar.mean for bar in chart.bars],
        "arrayminus": [bar.mean - bar.low for bar in chart.bars],
        "color": GREY,
        "thickness": 1.2,
        "width": 4,
    }
    marker = {"symbol": "line-ew-open", "size": 9, "color": INK, "line": {"width": 2}}
    trace = go.Scatter(
        x=[bar.x for bar in chart.bars], y=[bar.mean for bar in chart.bars], error_y=reach, mode="markers",
        marker=marker, name="finalists: mean, 95 %", hoverinfo="skip",
    )  # fmt: skip
    return [trace]


def _beside(chart: Chart) -> list[go.Scatter]:
    """References, other predictors, and a ring around the pick."""
    traces = []
    for dot in chart.references:
        symbol = _REFERENCE_MARKERS.get(dot.group, "pentagon")
        marker = {"symbol": symbol, "size": 12, "color": "#ffffff", "line": {"color": INK, "width": 1.8}}
        traces.append(_scatter([dot], _reference_name(dot), marker))
    for kind, (symbol, name) in _PREDICTOR_MARKERS.items():
        if dots := [dot for dot in chart.predictors if dot.group == kind]:
            marker = {"symbol": symbol, "size": 10, "color": "#d1495b", "line": {"width": 2}}
            traces.append(_scatter(dots, name, marker))
    if chart.pick:
        marker = {"symbol": "circle-open", "size": 24, "color": "#d1495b", "line": {"width": 2.5}}
        trace = go.Scatter(
            x=[chart.pick.x], y=[chart.pick.y], mode="markers", marker=marker, name=f"pick: trial {chart.pick.number}",
            hoverinfo="skip",
        )  # fmt: skip
        traces.append(trace)
    return traces


def _reference_name(dot: Dot) -> str:
    return {"head": "head only", "full": "full fine-tuning"}.get(dot.group, dot.group)


def _scatter(dots: Sequence[Dot], name: str, marker: Mapping[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=[dot.x for dot in dots],
        y=[dot.y for dot in dots],
        mode="markers",
        marker=marker,
        name=html.escape(name),
        customdata=[dot.number for dot in dots],
        text=[_hover(dot) for dot in dots],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(dot: Dot) -> str:
    first, *rest = map(html.escape, dot.lines)
    return "<br>".join([f"<b>{first}</b>", *rest])


def _add_limit(figure: go.Figure, chart: Chart) -> None:
    if chart.limit is None:
        return
    figure.add_vline(x=chart.limit, line={"color": GREY, "width": 1, "dash": "dash"})
    position = {"x": _coordinate(chart.x, chart.limit), "y": 0.0, "yref": "paper", "yanchor": "bottom"}
    words = {"text": "budget", "showarrow": False, "textangle": -90, "xanchor": "left", "font": {"color": GREY}}
    figure.add_annotation(**position, **words)


def _add_breaks(figure: go.Figure, chart: Chart) -> None:
    """Mark where the x axis is broken."""
    for place in chart.x.breaks:
        figure.add_annotation(
            x=_coordinate(chart.x, place), y=0, yref="paper", yanchor="middle", text="//", showarrow=False,
            bgcolor="#ffffff", borderpad=1, font={"color": GREY, "size": 13},
        )  # fmt: skip


def _layout(chart: Chart) -> dict[str, Any]:
    return {
        "title": {
            "text": f"<b>{html.escape(chart.title)}</b>",
            "subtitle": {"text": html.escape(chart.subtitle), "font": {"size": 13, "color": GREY}},
            "x": 0.0, "xref": "paper", "xanchor": "left", "font": {"size": 19},
        },
        "font": {"family": FONT, "size": 13, "color": INK},
        "plot_bgcolor": "#ffffff",
        "paper_bgcolor": "#ffffff",
        "margin": {"l": 72, "r": 24, "t": 84, "b": 60},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": GRID, "align": "left", "font": {"size": 12, "color": INK}},
        "legend": {"font": {"size": 12}, "itemsizing": "constant", "tracegroupgap": 0},
        "xaxis": _axis(chart.x),
        "yaxis": _axis(chart.y),
    }  # fmt: skip


def _axis(axis: Axis) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "title": {"text": html.escape(axis.title), "standoff": 10},
        "type": "log" if axis.logarithmic else "linear",
        "range": [_coordinate(axis, axis.low), _coordinate(axis, axis.high)],
        "gridcolor": GRID,
        "linecolor": FAINT,
        "ticks": "outside",
        "tickcolor": FAINT,
        "zeroline": False,
        "automargin": True,
    }
    if axis.ticks:
        layout |= {"tickvals": [value for value, _ in axis.ticks], "ticktext": [text for _, text in axis.ticks]}
    return layout


def _coordinate(axis: Axis, value: float) -> float:
    """Plotly gives ranges and annotations of a logarithmic axis as exponents."""
    return math.log10(value) if axis.logarithmic else value
