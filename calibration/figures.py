"""Pictures of calibration, each as a Plotly figure and as a PNG.

    reliability          frequency against confidence, with the band in which a perfect model would lie
    confidence_histogram how sure the model is, when right and when wrong
    risk_coverage        error rate among the surest rows, against how many are answered
    before_after         two reliability diagrams side by side
    overview             all three pictures, before calibration on the left and after it on the right

`*_figure` returns a `plotly.graph_objects.Figure`; `*_png` writes a file with matplotlib (Agg, no global state) by a
temporary name that is synced and renamed. Both libraries are imported when first needed. All take probabilities of
shape (n, k) and labels of shape (n,), and show the top label.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calibration.floor import ConsistencyBand, consistency_band, ece_floor
from calibration.outcomes import top_label
from calibration.rows import FloatArray, checked_count
from calibration.selective import aurc, risk_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as PngFigure
    from plotly.graph_objects import Figure

# Okabe & Ito's palette: told apart by every kind of colour vision.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#7F7F7F"
_BAND = "rgba(127, 127, 127, 0.25)"
_DPI = 144
_PART = "part of the rows"


@dataclass(frozen=True)
class _Reliability:
    band: ConsistencyBand
    title: str


@dataclass(frozen=True)
class _Histogram:
    edges: FloatArray
    right: FloatArray
    wrong: FloatArray
    title: str


@dataclass(frozen=True)
class _Risk:
    coverage: FloatArray
    risk: FloatArray
    title: str


def reliability_figure(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, seed: int = 0, name: str = ""
) -> Figure:
    """Return the reliability diagram; a point outside the grey band is not chance (95 %, bin by bin).

    Points are bins of equal width, as large as their part of the rows.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
    """
    from plotly.graph_objects import Figure

    shown = _reliability(probabilities, labels, bins, seed, name)
    figure = Figure(data=_reliability_traces(shown.band))
    figure.update_layout(title=shown.title, **_reliability_axes())
    return figure


def reliability_png(
    path: str | os.PathLike[str],
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    bins: int = 15,
    seed: int = 0,
    name: str = "",
) -> Path:
    """Write the reliability diagram as a PNG and return its path.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
        OSError: The file cannot be written.
    """
    figure, axes = _canvas()
    _draw_reliability(axes, _reliability(probabilities, labels, bins, seed, name))
    return _written(figure, path)


def confidence_histogram_figure(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, name: str = ""
) -> Figure:
    """Return the histogram of confidence, right answers below and wrong ones above.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
    """
    from plotly.graph_objects import Figure

    shown = _histogram(probabilities, labels, bins, name)
    figure = Figure(data=_histogram_traces(shown))
    figure.update_layout(barmode="stack", title=shown.title, xaxis_title="confidence", yaxis_title=_PART)
    figure.update_xaxes(range=[0, 1])
    return figure


def confidence_histogram_png(
    path: str | os.PathLike[str], probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, name: str = ""
) -> Path:
    """Write the histogram of confidence as a PNG and return its path.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
        OSError: The file cannot be written.
    """
    figure, axes = _canvas()
    _draw_histogram(axes, _histogram(probabilities, labels, bins, name))
    return _written(figure, path)


def risk_coverage_figure(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, name: str = "") -> Figure:
    """Return the risk-coverage curve, with the error rate of all rows as a dashed line.

    Raises:
        CalibrationError: Arrays that are not fit to use.
    """
    from plotly.graph_objects import Figure

    shown = _risk(probabilities, labels, name)
    figure = Figure(data=_risk_traces(shown))
    figure.update_layout(title=shown.title, xaxis_title="coverage", yaxis_title="error rate")
    figure.update_yaxes(rangemode="tozero")
    return figure


def risk_coverage_png(
    path: str | os.PathLike[str], probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, name: str = ""
) -> Path:
    """Write the risk-coverage curve as a PNG and return its path.

    Raises:
        CalibrationError: Arrays that are not fit to use.
        OSError: The file cannot be written.
    """
    figure, axes = _canvas()
    _draw_risk(axes, _risk(probabilities, labels, name))
    return _written(figure, path)


def before_after_figure(
    before: npt.ArrayLike, after: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, seed: int = 0
) -> Figure:
    """Return the reliability diagrams of two sets of probabilities of the same rows, side by side.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
    """
    from plotly.subplots import make_subplots

    shown = [_reliability(p, labels, bins, seed, name) for p, name in ((before, "before"), (after, "after"))]
    figure = make_subplots(rows=1, cols=2, subplot_titles=[one.title for one in shown], shared_yaxes=True)
    for column, one in enumerate(shown, start=1):
        for trace in _reliability_traces(one.band):
            # One legend for both panels.
            figure.add_trace(trace if column == 1 else trace.update(showlegend=False), row=1, col=column)
    figure.update_xaxes(title_text="confidence", range=[0, 1])
    figure.update_yaxes(range=[0, 1])
    figure.update_yaxes(title_text="accuracy", col=1)
    return figure


def before_after_png(
    path: str | os.PathLike[str],
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    bins: int = 15,
    seed: int = 0,
) -> Path:
    """Write the reliability diagrams before and after as one PNG and return its path.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
        OSError: The file cannot be written.
    """
    figure, axes = _canvas(panels=2)
    for panel, (p, name) in zip(axes, ((before, "before"), (after, "after")), strict=True):
        _draw_reliability(panel, _reliability(p, labels, bins, seed, name))
    return _written(figure, path)


def overview_figure(
    before: npt.ArrayLike, after: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, seed: int = 0
) -> Figure:
    """Return every picture of two sets of probabilities of the same rows: before on the left, after on the right.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
    """
    from plotly.subplots import make_subplots

    columns = [_column(p, labels, bins, seed, name) for p, name in ((before, "before"), (after, "after"))]
    titles = [one.title for pair in zip(*columns, strict=True) for one in pair]
    figure = make_subplots(rows=3, cols=2, subplot_titles=titles, shared_yaxes=True, vertical_spacing=0.09)
    for column, (reliability, histogram, risk) in enumerate(columns, start=1):
        drawn = (_reliability_traces(reliability.band), _histogram_traces(histogram), _risk_traces(risk))
        for row, traces in enumerate(drawn, start=1):
            for trace in traces:
                figure.add_trace(trace if column == 1 else trace.update(showlegend=False), row=row, col=column)
    for row, (x, y) in enumerate((("confidence", "accuracy"), ("confidence", _PART), ("coverage", "error rate")), 1):
        figure.update_xaxes(title_text=x, range=[0, 1], row=row)
        figure.update_yaxes(title_text=y, row=row, col=1)
    figure.update_yaxes(range=[0, 1], row=1)
    figure.update_yaxes(rangemode="tozero", row=3)
    figure.update_layout(barmode="stack", height=1200)
    return figure


def overview_png(
    path: str | os.PathLike[str],
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    bins: int = 15,
    seed: int = 0,
) -> Path:
    """Write every picture before and after as one PNG and return its path.

    Raises:
        CalibrationError: Arrays or options that are not fit to use.
        OSError: The file cannot be written.
    """
    figure, axes = _canvas(panels=2, rows=3)
    for panels, (p, name) in zip(axes.T, ((before, "before"), (after, "after")), strict=True):
        reliability, histogram, risk = _column(p, labels, bins, seed, name)
        _draw_reliability(panels[0], reliability)
        _draw_histogram(panels[1], histogram)
        _draw_risk(panels[2], risk)
    return _written(figure, path)


def _column(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int, seed: int, name: str
) -> tuple[_Reliability, _Histogram, _Risk]:
    return (
        _reliability(probabilities, labels, bins, seed, name),
        _histogram(probabilities, labels, bins, name),
        _risk(probabilities, labels, name),
    )


def _reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int, seed: int, name: str) -> _Reliability:
    band = consistency_band(top_label(probabilities, labels), bins, seed=seed)
    floor = ece_floor(probabilities, labels, bins, seed=seed)
    text = f"ECE {floor.ece:.3f} (perfect model {floor.floor_mean:.3f}, p = {floor.p_value:.3f})"
    return _Reliability(band, _titled(name, text))


def _histogram(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int, name: str) -> _Histogram:
    edges = np.linspace(0.0, 1.0, checked_count(bins, "bins", minimum=1) + 1)
    outcomes = top_label(probabilities, labels)
    confidence, right = outcomes.probability, outcomes.happened
    counts = [np.histogram(confidence[chosen], edges)[0] / confidence.size for chosen in (right, ~right)]
    title = _titled(name, f"confidence {confidence.mean():.3f}, accuracy {right.mean():.3f}")
    return _Histogram(edges, counts[0], counts[1], title)


def _risk(probabilities: npt.ArrayLike, labels: npt.ArrayLike, name: str) -> _Risk:
    curve = risk_coverage(probabilities, labels)
    return _Risk(curve.coverage, curve.risk, _titled(name, f"AURC {aurc(probabilities, labels):.3f}"))


def _titled(name: str, text: str) -> str:
    return f"{name}: {text}" if name else text


def _reliability_traces(band: ConsistencyBand) -> list[Any]:
    from plotly.graph_objects import Scatter

    around = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    size = 6.0 + 24.0 * np.sqrt(band.share)
    return [
        Scatter(x=[0, 1], y=[0, 1], mode="lines", name="perfect", line={"color": _GREY, "dash": "dash"}),
        Scatter(x=band.probability, y=band.high, showlegend=False, **around),
        Scatter(x=band.probability, y=band.low, name="chance (95 %)", fill="tonexty", fillcolor=_BAND, **around),
        Scatter(
            x=band.probability,
            y=band.frequency,
            mode="lines+markers",
            name="observed",
            marker={"color": _BLUE, "size": size},
            customdata=band.share,
            hovertemplate="confidence %{x:.3f}<br>accuracy %{y:.3f}<br>%{customdata:.1%} of the rows<extra></extra>",
        ),
    ]


def _histogram_traces(shown: _Histogram) -> list[Any]:
    from plotly.graph_objects import Bar

    middle, width = 0.5 * (shown.edges[1:] + shown.edges[:-1]), np.diff(shown.edges)
    return [
        Bar(x=middle, y=shown.right, width=width, name="right", marker_color=_BLUE),
        Bar(x=middle, y=shown.wrong, width=width, name="wrong", marker_color=_ORANGE),
    ]


def _risk_traces(shown: _Risk) -> list[Any]:
    from plotly.graph_objects import Scatter

    ends, level = [shown.coverage[0], shown.coverage[-1]], [shown.risk[-1]] * 2
    return [
        Scatter(x=shown.coverage, y=shown.risk, mode="lines", name="surest first", line_color=_BLUE),
        Scatter(x=ends, y=level, mode="lines", name="any order", line={"color": _GREY, "dash": "dash"}),
    ]


def _reliability_axes() -> dict[str, Any]:
    return {"xaxis": {"title": "confidence", "range": [0, 1]}, "yaxis": {"title": "accuracy", "range": [0, 1]}}


def _draw_reliability(axes: Axes, shown: _Reliability) -> None:
    band = shown.band
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="perfect")
    axes.fill_between(band.probability, band.low, band.high, color=_GREY, alpha=0.25, lw=0, label="chance (95 %)")
    axes.plot(band.probability, band.frequency, color=_BLUE, lw=1, marker="o", markersize=4, label="observed")
    axes.scatter(band.probability, band.frequency, s=15 + 250 * band.share, color=_BLUE, zorder=3, clip_on=False)
    _label(axes, shown.title, "confidence", "accuracy")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")


def _draw_histogram(axes: Axes, shown: _Histogram) -> None:
    left, width = shown.edges[:-1], np.diff(shown.edges)
    for height, bottom, color, name in (
        (shown.right, 0.0, _BLUE, "right"),
        (shown.wrong, shown.right, _ORANGE, "wrong"),
    ):
        axes.bar(left, height, width, bottom, align="edge", color=color, edgecolor="white", label=name)
    _label(axes, shown.title, "confidence", _PART)
    axes.set_xlim(0, 1)
    axes.legend(frameon=False)


def _draw_risk(axes: Axes, shown: _Risk) -> None:
    axes.plot(shown.coverage, shown.risk, color=_BLUE, label="surest first")
    axes.axhline(shown.risk[-1], color=_GREY, linestyle="--", label="any order")
    _label(axes, shown.title, "coverage", "error rate")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def _canvas(panels: int = 1, rows: int = 1) -> tuple[PngFigure, Any]:
    from matplotlib.figure import Figure as PngFigure

    figure = PngFigure(figsize=(5.0 * panels, 4.6 * rows), layout="constrained", dpi=_DPI)
    return figure, figure.subplots(rows, panels)


def _written(figure: PngFigure, path: str | os.PathLike[str]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
