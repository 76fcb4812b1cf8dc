"""Pictures: what they show, and that they are written whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration import figures
from calibration.ece import ece
from calibration.errors import CalibrationError


@pytest.fixture
def go():
    return pytest.importorskip("plotly.graph_objects")


def test_reliability_shows_points_in_and_out_of_the_band(go, probabilities) -> None:
    p, labels = probabilities(800, sharpness=3.0)
    figure = figures.reliability_figure(p, labels, name="pick")
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert isinstance(figure, go.Figure)
    assert f"pick: ECE {ece(p, labels):.3f} (perfect model 0.0" in figure.layout.title.text
    assert "p = 0.001" in figure.layout.title.text
    assert {"perfect", "chance (95 %)", "observed"} <= set(traces)
    observed, low = traces["observed"], traces["chance (95 %)"]
    assert np.mean(np.array(observed.y) < np.array(low.y)) > 0.5
    json.loads(figure.to_json())


def test_the_histogram_adds_up_to_all_rows(go, probabilities) -> None:
    p, labels = probabilities(300)
    right, wrong = figures.confidence_histogram_figure(p, labels).data
    assert sum(right.y) == pytest.approx(np.mean(p.argmax(axis=1) == labels))
    assert sum(right.y) + sum(wrong.y) == pytest.approx(1.0)


def test_risk_coverage_ends_at_the_error_rate(go, probabilities) -> None:
    p, labels = probabilities(300)
    curve, line = figures.risk_coverage_figure(p, labels).data
    assert curve.y[-1] == pytest.approx(np.mean(p.argmax(axis=1) != labels))
    assert line.y[0] == line.y[1] == curve.y[-1]


def test_before_and_after_stand_side_by_side(go, probabilities) -> None:
    sharp, labels = probabilities(300, sharpness=3.0)
    honest, _ = probabilities(300)
    figure = figures.before_after_figure(sharp, honest, labels)
    titles = [note.text.split(" (")[0] for note in figure.layout.annotations]
    assert titles == [f"before: ECE {ece(sharp, labels):.3f}", f"after: ECE {ece(honest, labels):.3f}"]
    assert len(figure.data) == 8
    assert sum(trace.showlegend is not False for trace in figure.data) == 3


def test_the_overview_holds_every_picture_before_and_after(go, probabilities) -> None:
    sharp, labels = probabilities(300, sharpness=3.0)
    honest, _ = probabilities(300)
    figure = figures.overview_figure(sharp, honest, labels)
    titles = [note.text.split(" ")[:2] for note in figure.layout.annotations]
    assert titles == [[when, what] for what in ("ECE", "confidence", "AURC") for when in ("before:", "after:")]
    alone = [
        figures.reliability_figure(sharp, labels),
        figures.confidence_histogram_figure(sharp, labels),
        figures.risk_coverage_figure(sharp, labels),
    ]
    before = [trace for trace in figure.data if trace.xaxis in ("x", "x3", "x5")]
    for shown, wanted in zip(before, (trace for one in alone for trace in one.data), strict=True):
        assert shown.name == wanted.name
        assert np.array_equal(shown.y, wanted.y)
    json.loads(figure.to_json())


@pytest.mark.parametrize(
    "write",
    [
        figures.reliability_png,
        figures.confidence_histogram_png,
        figures.risk_coverage_png,
        lambda path, p, labels: figures.before_after_png(path, p, p, labels),
        lambda path, p, labels: figures.overview_png(path, p, p, labels),
    ],
)
def test_png_files_are_whole_and_alone(probabilities, tmp_path, write) -> None:
    pytest.importorskip("matplotlib")
    p, labels = probabilities(200)
    path = write(tmp_path / "figure.png", p, labels)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000
    assert [one.name for one in tmp_path.iterdir()] == ["figure.png"]
    assert write(tmp_path / "figure.png", p, labels).read_bytes() == content


def test_a_failed_write_leaves_nothing(probabilities, tmp_path, monkeypatch) -> None:
    backend = pytest.importorskip("matplotlib.backends.backend_agg")

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(backend.FigureCanvasAgg, "print_png", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.reliability_png(tmp_path / "figure.png", *probabilities(50))
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused_before_anything_is_drawn(tmp_path) -> None:
    for draw in (figures.reliability_figure, figures.confidence_histogram_figure, figures.risk_coverage_figure):
        with pytest.raises(CalibrationError):
            draw([[0.5, 0.6]], [0])
    with pytest.raises(CalibrationError):
        figures.reliability_png(tmp_path / "figure.png", [[0.5, 0.5]], [2])
    assert list(tmp_path.iterdir()) == []
