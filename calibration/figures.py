"""Pictures of calibration, each as a Plotly figure and as a PNG.

    reliability          frequency against confidence, with the band in which a perfect model would lie
    confidence_histogram how sure the model is, when right and when wrong
    risk_coverage        error rate among the surest rows, against how many are answered
    before_after         two reliability diagrams side by side

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


@dataclass(frozen=True)
class _Reliability:
    band: ConsistencyBand
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
    from plotly.graph_objects import Bar, Figure

    edges, right, wrong, title = _histogram(probabilities, labels, bins, name)
    middle, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    figure = Figure(
        data=[
            Bar(x=middle, y=right, width=width, name="right", marker_color=_BLUE),
            Bar(x=middle, y=wrong, width=width, name="wrong", marker_color=_ORANGE),
        ]
    )
    figure.update_layout(barmode="stack", title=title, xaxis_title="confidence", yaxis_title="part of the rows")
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
    edges, right, wrong, title = _histogram(probabilities, labels, bins, name)
    figure, axes = _canvas()
    width = np.diff(edges)
    axes.bar(edges[:-1], right, width, align="edge", color=_BLUE, edgecolor="white", label="right")
    axes.bar(edges[:-1], wrong, width, bottom=right, align="edge", color=_ORANGE, edgecolor="white", label="wrong")
    _label(axes, title, "confidence", "part of the rows")
    axes.set_xlim(0, 1)
    axes.legend(frameon=False)
    return _written(figure, path)


def risk_coverage_figure(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, name: str = "") -> Figure:
    """Return the risk-coverage curve, with the error rate of all rows as a dashed line.

    Raises:
        CalibrationError: Arrays that are not fit to use.
    """
    from plotly.graph_objects import Figure, Scatter

    coverage, risk, title = _risk(probabilities, labels, name)
    ends = [coverage[0], coverage[-1]]
    figure = Figure(
        data=[
            Scatter(x=coverage, y=risk, mode="lines", name="surest first", line_color=_BLUE),
            Scatter(x=ends, y=[risk[-1]] * 2, mode="lines", name="any order", line={"color": _GREY, "dash": "dash"}),
        ]
    )
    figure.update_layout(title=title, xaxis_title="coverage", yaxis_title="error rate")
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
    coverage, risk, title = _risk(probabilities, labels, name)
    figure, axes = _canvas()
    axes.plot(coverage, risk, color=_BLUE, label="surest first")
    axes.axhline(risk[-1], color=_GREY, linestyle="--", label="any order")
    _label(axes, title, "coverage", "error rate")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
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


def _reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int, seed: int, name: str) -> _Reliability:
    band = consistency_band(top_label(probabilities, labels), bins, seed=seed)
    floor = ece_floor(probabilities, labels, bins, seed=seed)
    text = f"ECE {floor.ece:.3f} (perfect model {floor.floor_mean:.3f}, p = {floor.p_value:.3f})"
    return _Reliability(band, _titled(name, text))


def _histogram(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int, name: str
) -> tuple[FloatArray, FloatArray, FloatArray, str]:
    edges = np.linspace(0.0, 1.0, checked_count(bins, "bins", minimum=1) + 1)
    outcomes = top_label(probabilities, labels)
    confidence, right = outcomes.probability, outcomes.happened
    counts = [np.histogram(confidence[chosen], edges)[0] / confidence.size for chosen in (right, ~right)]
    title = _titled(name, f"confidence {confidence.mean():.3f}, accuracy {right.mean():.3f}")
    return edges, counts[0], counts[1], title


def _risk(probabilities: npt.ArrayLike, labels: npt.ArrayLike, name: str) -> tuple[FloatArray, FloatArray, str]:
    curve = risk_coverage(probabilities, labels)
    return curve.coverage, curve.risk, _titled(name, f"AURC {aurc(probabilities, labels):.3f}")


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


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def _canvas(panels: int = 1) -> tuple[PngFigure, Any]:
    from matplotlib.figure import Figure as PngFigure

    figure = PngFigure(figsize=(5.0 * panels, 4.6), layout="constrained", dpi=_DPI)
    return figure, figure.subplots(1, panels)


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
