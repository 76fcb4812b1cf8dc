"""What benchmarks leave behind: sections stay apart, files are whole, nothing says where they were made."""

import json
import os
import platform
import sys

import pytest

from benchmarks import report


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    return tmp_path


def page(folder):
    return (folder / "RESULTS.md").read_text()


def test_sections_are_sorted_and_listed(folder):
    report.write("speed", {"x": 1}, "## Speed: how fast?\n\nfast\n")
    report.write("accuracy", {"x": 2}, "## Accuracy\n\ngood\n")
    text = page(folder)
    assert text.index("(#accuracy)") < text.index("(#speed-how-fast)") < text.index("good") < text.index("fast\n<!--")


def test_a_section_is_replaced_and_the_others_stay(folder):
    report.write("speed", {}, "## Speed\n\nfast")
    report.write("accuracy", {}, "## Accuracy\n\ngood")
    before = page(folder)
    report.write("speed", {}, "## Speed\n\nfaster")
    assert page(folder) == before.replace("fast\n", "faster\n")


def test_writing_again_changes_nothing(folder):
    for _ in range(2):
        report.write("speed", {"b": 1, "a": 2}, "## Speed\n\nfast\n\n")
        text, data = page(folder), (folder / "results" / "speed.json").read_bytes()
    report.write("speed", {"a": 2, "b": 1}, "## Speed\n\nfast")
    assert (page(folder), (folder / "results" / "speed.json").read_bytes()) == (text, data)
    assert sorted(one.name for one in folder.iterdir()) == ["RESULTS.md", "results"]


def test_a_result_says_what_it_was_made_with(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/somebody/benchmarks/speed.py", "--quick", "--out", "/home/somebody/out"])
    report.write("speed", {"x": 1}, "## Speed")
    text = (folder / "results" / "speed.json").read_text()
    data = json.loads(text)
    assert list(data) == sorted(data)
    assert data["schema_version"] == 1
    assert data["environment"]["python"] == platform.python_version()
    assert data["environment"]["cpus"] == os.cpu_count()
    assert data["environment"]["packages"]["numpy"]
    assert data["command"] == "python -m benchmarks.speed --quick --out out"
    assert "somebody" not in text
    assert platform.node() not in text


@pytest.mark.parametrize("place", ["speed/real.py", "speed/real/__main__.py"])
def test_a_module_of_a_package_is_named_as_it_is_run(folder, monkeypatch, place):
    monkeypatch.setattr(sys, "argv", [f"/home/somebody/benchmarks/{place}", "report"])
    report.write("speed_real", {"x": 1}, "## Speed", "speed.real")
    data = json.loads((folder / "results" / "speed_real.json").read_text())
    assert data["command"] == "python -m benchmarks.speed.real report"


def test_the_arguments_of_another_program_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/pytest", "-q"])
    report.write("speed", {}, "## Speed")
    assert json.loads((folder / "results" / "speed.json").read_text())["command"] == "python -m benchmarks.speed"


@pytest.mark.parametrize(
    ("name", "result", "markdown"),
    [("../speed", {}, "## Speed"), ("speed", {"x": float("nan")}, "## Speed"), ("speed", {}, "Speed")],
)
def test_what_cannot_be_written_is_refused_whole(folder, name, result, markdown):
    with pytest.raises(ValueError):
        report.write(name, result, markdown)
    assert list(folder.iterdir()) == []


def test_ratio_of_medians():
    ratio = report.ratio_interval([4.0, 2.0, 100.0], [1.0, 2.0, 3.0])
    assert ratio.value == 2.0
    assert ratio.low < 2.0 < ratio.high
    assert ratio == report.ratio_interval([4.0, 2.0, 100.0], [1.0, 2.0, 3.0])


def test_one_measurement_has_no_width():
    assert report.ratio_interval([6.0], [3.0]) == report.Ratio(2.0, 2.0, 2.0)


@pytest.mark.parametrize(("a", "b"), [([], [1.0]), ([1.0], []), ([float("inf")], [1.0]), ([1.0], [0.0])])
def test_ratios_of_nothing_are_refused(a, b):
    with pytest.raises(ValueError, match="finite"):
        report.ratio_interval(a, b)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    import numpy as np

    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        a, b = rng.lognormal(np.log(3.0), 0.3, 25), rng.lognormal(0.0, 0.3, 25)
        one = report.ratio_interval(a, b, resamples=400, seed=seed)
        covered += one.low <= 3.0 <= one.high
    assert covered >= 180
