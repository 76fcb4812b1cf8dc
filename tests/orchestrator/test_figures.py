"""The front to look at: what is drawn, that it opens offline, that it is the same each time."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evaluators.score import METRICS
from orchestrator.figures import pareto_csv, pareto_figure, pareto_files, pareto_html, pareto_json, pareto_png
from orchestrator.figures.chart import Axis, _powers, _x_axis, chart_of
from orchestrator.figures.picture import _faint_entries
from orchestrator.front import front_of
from tests.orchestrator.made_up import BACKBONE, make_spec, make_trial, plausible

LIMITS = {"trainable_params": 120_000.0}
PARAMETERS = METRICS["trainable_params"]


@pytest.fixture(scope="module")
def study():
    trials, references, finalists = plausible(5)
    front = front_of(make_spec(), trials, LIMITS, finalists)
    return front, trials, references


@pytest.fixture(scope="module")
def chart(study):
    front, trials, references = study
    return chart_of(front.to_json(), trials, references)


def names(figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend is not False]


def test_every_scored_trial_is_a_point(study, chart):
    _, trials, _ = study
    assert sorted(dot.number for dot in chart.dots) == [one.number for one in trials if one.scores]
    assert len(chart.untrained) == sum(one.state == "infeasible" and not one.scores for one in trials)
    assert {dot.group for dot in chart.references} == {"head", "full"}
    assert len(chart.bars) == 4


def test_the_legend_names_what_there_is(study):
    front, trials, references = study
    found = names(pareto_figure(front.to_json(), trials, references))
    expected = {
        "Pareto front",
        f"pick: trial {front.pick.number}",
        "finalists: mean, 95 %",
        "head only",
        "full fine-tuning",
    }
    assert expected <= set(found)
    assert [one for one in found if one.startswith("stopped early (")]
    assert {one.candidate.method for one in trials if front.tags[one.number] in ("front", "dominated")} <= set(found)


def test_what_is_paused_is_a_group_of_its_own(study):
    _, trials, references = study
    early = [one.number for one in trials if one.state == "partial"][:2]
    waiting = [replace(one, state="paused", finished=None) if one.number in early else one for one in trials]
    front = front_of(make_spec(), waiting, LIMITS)
    (trace,) = (
        one for one in pareto_figure(front.to_json(), waiting, references).data if one.name == "paused at a rung (2)"
    )
    assert list(trace.customdata) == early
    assert all("(paused at a rung)</b>" in text for text in trace.text)
    symbols = {one.name.split(" (")[0]: one.marker.symbol for one in pareto_figure(front.to_json(), waiting).data}
    assert symbols["paused at a rung"] != symbols["stopped early"]
    entries = {one.get_label(): one for one in _faint_entries(chart_of(front.to_json(), waiting))}
    rest = next(name for name in entries if name.startswith("stopped early"))
    assert entries["paused at a rung (2)"].get_marker() != entries[rest].get_marker()
    assert pareto_png(front.to_json(), waiting) != pareto_png(front_of(make_spec(), trials, LIMITS).to_json(), trials)


def test_hovering_shows_the_candidate_and_its_metrics(study):
    front, trials, references = study
    figure = pareto_figure(front.to_json(), trials, references)
    texts = {number: text for trace in figure.data if trace.customdata is not None
             for number, text in zip(trace.customdata, trace.text, strict=True)}  # fmt: skip
    member = next(one for one in front.members if one.finalists)
    said = texts[member.number].replace("\u00a0", " ")
    assert f"<b>trial {member.number} (on the front)</b>" in said
    assert f"accuracy {member.values['accuracy']:.4f}" in said
    assert "accuracy on test:" in said
    assert "non-dominated with probability" in said


def test_the_page_needs_no_network(study):
    front, trials, references = study
    page = pareto_html(front.to_json(), trials, references)
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "Plotly.newPlot" in page
    assert page.startswith("<!doctype html>")
    assert "demo: Pareto front" in page


def test_words_of_others_are_shown_and_not_run(study):
    front, trials, references = study
    evil = replace(references[0], origin="<script>alert(1)</script>")
    page = pareto_html(front.to_json() | {"study": "</script><script>alert(2)</script>"}, trials, [evil])
    assert "<script>alert" not in page
    assert "</script><script>" not in page.split("Plotly.newPlot")[1]


def test_the_same_front_gives_the_same_files(study):
    front, trials, references = study
    first, second = (pareto_files(front, trials, references) for _ in range(2))
    assert set(first) == {"pareto.json", "pareto.csv", "pareto.html", "pareto.png", "predictors.csv"}
    assert first == second


def test_the_picture_is_drawn(study):
    front, trials, references = study
    image = np.asarray(Image.open(io.BytesIO(pareto_png(front.to_json(), trials, references))).convert("RGB"))
    assert image.shape == (832, 1520, 3)
    assert 0.02 < (image.min(axis=-1) < 200).mean() < 0.3


OTHER_OBJECTIVES = [
    ("accuracy",),
    ("calibrated_nll", "latency_ms"),
    ("accuracy", "macro_f1"),
    ("trainable_params", "accuracy", "calibrated_nll"),
    ("accuracy", "peak_memory_bytes"),
]


@pytest.mark.parametrize("objectives", OTHER_OBJECTIVES, ids=" ".join)
def test_other_objectives_are_drawn_too(objectives):
    trials, references, finalists = plausible(1)
    front = front_of(make_spec(objectives=objectives), trials, {}, finalists)
    chart = chart_of(front.to_json(), trials, references)
    assert chart.y.metric.on_split
    assert chart.x.metric.name == next((one for one in objectives if one != chart.y.metric.name), "trainable_params")
    assert all(chart.x.low <= dot.x <= chart.x.high for dot in (*chart.dots, *chart.references))
    assert all(chart.y.low <= dot.y <= chart.y.high for dot in (*chart.dots, *chart.references))
    assert len(pareto_png(front.to_json(), trials, references)) > 10_000
    assert pareto_figure(front.to_json(), trials, references).to_json()


@pytest.mark.parametrize("trials", [[], [make_trial(0, None, state="failed")], [make_trial(0, None, state="running")]])
def test_a_study_without_results_is_drawn_empty(trials):
    front = front_of(make_spec(), trials, LIMITS)
    files = pareto_files(front, trials)
    assert json.loads(files["pareto.json"])["members"] == []
    assert files["pareto.csv"] == b"number\r\n"


def test_one_trial_is_enough():
    trials = [make_trial(0, {"accuracy": 0.5, "trainable_params": 0.0})]
    front = front_of(make_spec(), trials, {})
    assert len(pareto_png(front.to_json(), trials)) > 5_000
    assert chart_of(front.to_json(), trials).pick.number == 0


def test_the_stairs_climb_from_the_cheapest_to_the_budget(chart):
    x, y = zip(*chart.stairs, strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y)
    assert x[-1] == LIMITS["trainable_params"]
    corners = {(dot.x, dot.y) for dot in chart.tagged("front")}
    assert corners <= set(chart.stairs)


def test_zero_and_what_is_far_out_have_places_behind_a_break():
    axis = _x_axis(PARAMETERS, [1e3, 1e5], [0.0, BACKBONE])
    assert axis.low < axis.place(0.0) < axis.breaks[0] < 1e3
    assert 1e5 < axis.breaks[1] < axis.place(BACKBONE) < axis.high
    assert axis.place(5e3) == 5e3
    assert {"0", "22.7M", "10k"} <= {text for _, text in axis.ticks}


def test_without_extremes_the_axis_is_whole():
    axis = _x_axis(PARAMETERS, [1e3, 1e5], [2e5])
    assert (axis.zero, axis.breaks) == (None, ())
    assert axis.high > 2e5


@given(st.floats(1, 1e12), st.floats(1, 1e12), st.sampled_from([2.0, 10.0]))
@settings(max_examples=60)
def test_ticks_are_inside_and_not_too_many(one, other, base):
    low, high = sorted((one, other * 1.5))
    marks = _powers(base, low / 1.2, high * 1.2)
    assert len(marks) <= 10
    assert all(low / 1.2 <= mark <= high * 1.2 for mark in marks)


def test_axes_say_what_they_show():
    assert Axis(PARAMETERS, True, 0, 1).title == "trainable parameters"
    assert Axis(METRICS["calibrated_nll"], False, 0, 1).title == "calibrated nll on validation, nats (lower is better)"
    assert Axis(METRICS["latency_ms"], False, 0, 1).title == "latency, ms"


def test_the_table_has_a_row_for_each_member_and_neighbour(study):
    front, *_ = study
    rows = list(csv.DictReader(io.StringIO(pareto_csv(front))))
    assert [int(row["number"]) for row in rows] == [one.number for one in (*front.members, *front.neighbours)]
    assert float(rows[0]["accuracy"]) == front.members[0].values["accuracy"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(study, start, monkeypatch):
    front, *_ = study
    monkeypatch.setattr(type(front), "rows", lambda self: [{"notation": f"{start}cmd|' /C calc'!A0", "value": -1.5}])
    (row,) = csv.DictReader(io.StringIO(pareto_csv(front), newline=""))
    assert row["notation"].startswith(f"'{start}")
    assert row["value"] == "-1.5"


def test_the_data_reads_back(study):
    front, *_ = study
    assert json.loads(pareto_json(front)) == front.to_json()
