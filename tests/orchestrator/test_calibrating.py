"""`paretune calibrate`: logits from anywhere in; a report, a calibrator and figures out; bad input is one message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from calibration.calibrators import calibrator_from_json, fit_calibrator
from calibration.errors import CalibrationError, SeenRowsError
from calibration.folds import stratified_folds
from calibration.report import report
from calibration.sets import sets_from_json
from calibration.temperature import fit_temperature
from orchestrator import cli
from orchestrator.logit_files import read_export, read_rows
from search_space.errors import InputError

TRUE_TEMPERATURE = 3.0


def made_up(rows: int = 600, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident logits: their labels are drawn at a temperature of three."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (rows, classes))
    powers = np.exp(honest)
    labels = (powers.cumsum(axis=1) / powers.sum(axis=1, keepdims=True) < random.random((rows, 1))).sum(axis=1)
    return TRUE_TEMPERATURE * honest, labels.astype(np.int64)


def write_csv(path: Path, logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    rows = [",".join([*map(repr, map(float, row)), str(label)]) for row, label in zip(logits, labels, strict=True)]
    path.write_text("\n".join([",".join([*names, "label"]), *rows]) + "\n")
    return path


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def write_export(folder: Path, **changed: np.ndarray | None) -> Path:
    folder.mkdir()
    arrays = {}
    for seed, role in enumerate(("validation", "calibration")):
        arrays[f"{role}_logits"], arrays[f"{role}_labels"] = made_up(300, seed=seed)
    arrays |= changed
    safetensors.numpy.save_file(
        {name: one for name, one in arrays.items() if one is not None}, folder / "predictions.safetensors"
    )
    return folder


def paretune(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["paretune", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    return int(left.value.code or 0), shown.out, shown.err


def test_a_file_is_split_in_halves_and_everything_is_written(tmp_path, monkeypatch, capsys):
    logits, labels = made_up()
    source = write_npz(tmp_path / "logits.npz", logits=logits, labels=labels)
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", source, "--to", tmp_path / "made" / "here")
    assert code == 0
    assert "fitted on one half" in out
    assert "300 rows, 3 classes" in out
    assert "debiased_squared_error" in out
    folder = tmp_path / "made" / "here"
    assert {one.name for one in folder.iterdir()} == {
        "calibrator.json", "conformal.json", "calibration.html", "calibration.png", "report.json", "report.txt",
    }  # fmt: skip
    assert (folder / "report.txt").read_text() in out
    assert [one.name for one in (tmp_path / "made").iterdir()] == ["here"]
    fitted = calibrator_from_json(json.loads((folder / "calibrator.json").read_text()))
    assert fitted.n == 300
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "calibration.html").read_text()
    assert "before: ECE" in page
    assert "after: ECE" in page
    assert "<script src=" not in page, "it opens without a network"


def test_the_calibrator_has_not_seen_what_it_is_judged_on(tmp_path, monkeypatch, capsys):
    logits, labels = made_up()
    source = write_npz(tmp_path / "logits.npz", logits=logits, labels=labels)
    _, out, _ = paretune(monkeypatch, capsys, "calibrate", source, "--json", "--kind", "temperature", "--to", "made")
    shown = json.loads(out)
    fitted = calibrator_from_json(json.loads(Path("made", "calibrator.json").read_text()))
    assert (shown["n"], shown["how"]) == (300, "held_out")
    assert fitted.temperature == pytest.approx(TRUE_TEMPERATURE, rel=0.25)
    assert shown["after"]["nll"] < shown["before"]["nll"]
    with pytest.raises(SeenRowsError):
        report(logits, labels, calibrator=fitted)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_groups_stay_in_one_half(tmp_path, monkeypatch, capsys):
    logits, labels = made_up(200)
    twice = np.repeat(np.arange(100), 2)
    source = write_npz(tmp_path / "logits.npz", logits=logits, labels=labels, groups=twice, ids=np.arange(200))
    code, *_ = paretune(monkeypatch, capsys, "calibrate", source, "--to", "made")
    fitted = calibrator_from_json(json.loads(Path("made", "calibrator.json").read_text()))
    seen = {row for row in range(200) if _has_seen(fitted, logits[row : row + 1], row)}
    assert code == 0
    assert {row // 2 for row in seen}.isdisjoint({row // 2 for row in set(range(200)) - seen})
    assert len(seen) == 100


def _has_seen(fitted, logits: np.ndarray, name: int) -> bool:
    try:
        fitted.fitted_on.refuse(logits, [name])
    except SeenRowsError:
        return True
    return False


def test_few_rows_can_be_cross_fitted(tmp_path, monkeypatch, capsys):
    source = write_csv(tmp_path / "logits.csv", *made_up(60))
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", source, "--cross-fit", "--json", "--to", "made")
    assert code == 0
    assert json.loads(out)["how"] == "cross_fitted"
    assert json.loads(out)["calibrator"]["n"] == 60
    assert Path("made", "calibration.png").exists()


def test_a_fixed_kind_needs_no_folds(tmp_path, monkeypatch, capsys):
    logits, labels = made_up(200)
    first = np.flatnonzero(labels == 0)[:4].tolist() + np.flatnonzero(labels == 1)[:4].tolist()
    source = write_csv(tmp_path / "logits.csv", logits[first], labels[first])
    code, out, err = paretune(monkeypatch, capsys, "calibrate", source, "--kind", "temperature", "--to", "made")
    assert (code, err) == (0, "")
    assert "4 rows, 3 classes; calibrated by temperature" in out
    fitted = calibrator_from_json(json.loads(Path("made", "calibrator.json").read_text()))
    assert fitted.n == 4
    halves = stratified_folds(labels[first], 2, 0) == 0
    assert fitted == fit_temperature(logits[first][halves], labels[first][halves])
    code, *_ = paretune(monkeypatch, capsys, "calibrate", source, "--cross-fit")
    assert code == 0, "which the message below names"


@pytest.mark.parametrize(
    ("rows", "groups", "words", "message"),
    [
        (8, None, [], "4 rows to fit on, and --kind auto chooses by 5 folds of them; name one kind, as in --kind temp"),
        (8, None, [], "or give at least 5, or fit on all of the file with --cross-fit"),
        (40, 8, [], "4 groups to fit on"),
        (4, None, ["--cross-fit"], "4 rows to fit on, and --cross-fit judges by 5 folds of them; give at least 5"),
        (4, None, ["--evaluate", "more.csv"], "as in --kind temperature, or give at least 5"),
    ],
)
def test_too_few_rows_for_folds_are_told_what_works(tmp_path, monkeypatch, capsys, rows, groups, words, message):
    logits, _ = made_up(rows)
    beside = {} if groups is None else {"groups": np.arange(rows) % groups}
    source = write_npz(tmp_path / "logits.npz", logits=logits, labels=np.arange(rows) % 2, **beside)
    write_csv(tmp_path / "more.csv", *made_up(40, seed=1))
    code, _, err = paretune(monkeypatch, capsys, "calibrate", source, *words)
    assert code == 2
    assert f"{source}: " in err
    assert message in err
    assert ("--cross-fit" in err) == (not words or words == ["--cross-fit"])


def test_two_files_are_fit_and_judgement(tmp_path, monkeypatch, capsys):
    first = write_csv(tmp_path / "fit.csv", *made_up(200))
    second = write_csv(tmp_path / "judge.csv", *made_up(150, seed=1))
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", first, "--evaluate", second, "--json")
    assert code == 0
    assert (json.loads(out)["n"], json.loads(out)["calibrator"]["n"]) == (150, 200)
    code, _, err = paretune(monkeypatch, capsys, "calibrate", first, "--evaluate", first)
    assert code == 2
    assert "200 of 200 rows to be scored are among the 200" in err


@pytest.mark.parametrize("way", ["--evaluate", "--with", "export"])
def test_judged_rows_of_one_class_are_told_so(tmp_path, monkeypatch, capsys, way):
    fit = write_csv(tmp_path / "fit.csv", *made_up(60))
    logits, _ = made_up(40, seed=1)
    ones = np.ones(40, dtype=np.int64)
    judged = write_csv(tmp_path / "judged.csv", logits, ones)
    paretune(monkeypatch, capsys, "calibrate", fit, "--kind", "temperature", "--to", "made")
    words: dict[str, list[object]] = {"--evaluate": [fit, "--evaluate", judged], "--with": [judged, "--with", "made"]}
    if way == "export":
        words[way] = [write_export(tmp_path / "export", validation_logits=logits, validation_labels=ones)]
    code, _, err = paretune(monkeypatch, capsys, "calibrate", *words[way])
    assert code == 2
    assert ": all 40 labels of the rows to be judged are class 1; " in err
    assert ("validation" if way == "export" else str(judged)) in err
    assert "a fit needs" not in err


def test_an_export_brings_its_own_splits(tmp_path, monkeypatch, capsys):
    folder = write_export(tmp_path / "export")
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", folder)
    assert code == 0
    assert "predictions.safetensors (calibration), judged on" in out
    calibration, validation = read_export(folder)
    assert np.array_equal(validation.logits, made_up(300, seed=0)[0])
    assert np.array_equal(calibration.labels, made_up(300, seed=1)[1])


def test_what_was_fitted_is_judged_on_rows_of_another_day(tmp_path, monkeypatch, capsys):
    fit = write_csv(tmp_path / "fit.csv", *made_up(150))
    fresh = write_csv(tmp_path / "fresh.csv", *made_up(100, seed=1))
    paretune(monkeypatch, capsys, "calibrate", fit, "--kind", "temperature", "--cross-fit", "--to", "made")
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", fresh, "--with", "made", "--json")
    shown = json.loads(out)
    assert (code, shown["how"], shown["n"], shown["calibrator"]["n"]) == (0, "held_out", 100, 150)
    assert shown["calibrator"] == json.loads(Path("made", "calibrator.json").read_text())
    sets = sets_from_json(json.loads(Path("made", "conformal.json").read_text()))
    logits, labels = made_up(100, seed=1)
    after = calibrator_from_json(shown["calibrator"]).probabilities(logits)
    assert shown["conformal"]["lac"] == sets["lac"].evaluate(after, labels).to_json()


def test_an_exports_calibrator_is_judged_too_and_never_on_its_own_rows(tmp_path, monkeypatch, capsys):
    folder, (logits, labels) = write_export(tmp_path / "export"), made_up(300, seed=1)
    (folder / "calibration.json").write_text(json.dumps(fit_calibrator("vector", logits, labels).to_json()))
    own = write_npz(tmp_path / "own.npz", logits=logits, labels=labels)
    code, _, err = paretune(monkeypatch, capsys, "calibrate", own, "--with", folder)
    assert (code, "300 of 300 rows to be scored are among the 300" in err) == (2, True)
    fresh = write_csv(tmp_path / "fresh.csv", *made_up(200, seed=2))
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", fresh, "--with", folder)
    assert (code, "conformal" in out) == (0, False)
    assert f"nothing fitted: the vector of {folder} judged on all 200 rows of {fresh}" in out


def test_subgroups_are_scored_and_given_temperatures(tmp_path, monkeypatch, capsys):
    logits, labels = made_up(240)
    logits[120:] *= 6.0
    names = np.repeat(["calm", "loud"], 120)
    source = write_npz(tmp_path / "logits.npz", logits=logits, labels=labels, subgroups=names)
    code, out, _ = paretune(monkeypatch, capsys, "calibrate", source, "--kind", "temperature", "--to", "made")
    assert code == 0
    assert "worst calibrated:" in out
    assert "a temperature for each subgroup: nll" in out
    own = json.loads(Path("made", "subgroup_temperatures.json").read_text())["temperatures"]
    assert own["loud"] > 1.5 * own["calm"]
    plain = write_npz(tmp_path / "plain.npz", logits=logits, labels=labels)
    code, _, err = paretune(monkeypatch, capsys, "calibrate", source, "--evaluate", plain)
    assert (code, "has subgroups, so" in err) == (2, True)
    rows = [
        ",".join([*map(str, row), str(label), name]) for row, label, name in zip(logits, labels, names, strict=True)
    ]
    (tmp_path / "same.csv").write_text("\n".join(["a,b,c,label,subgroup", *rows]))
    found = read_rows(tmp_path / "same.csv").subgroups
    assert found is not None
    assert found.tolist() == names.tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--with", "."], "holds no calibrator"),
        (["--with", "made", "--kind", "vector"], "--kind has no meaning beside --with"),
        (["--with", "made", "--cross-fit"], "--cross-fit has no meaning beside --with"),
        (["--with", "made"], "conformal.json cannot be read"),
    ],
)
def test_what_cannot_be_reused_is_one_message(tmp_path, monkeypatch, capsys, words, message):
    source = write_csv(tmp_path / "logits.csv", *made_up(60))
    Path("made").mkdir()
    Path("made", "conformal.json").write_text("{")
    code, _, err = paretune(monkeypatch, capsys, "calibrate", source, *words)
    assert code == (1 if "read" in message else 2)
    assert message in err


def test_labels_may_be_names_of_columns(tmp_path):
    logits, labels = made_up(50)
    named = write_csv(tmp_path / "named.csv", logits, np.array(["a", "b", "c"])[labels])
    plain = write_csv(tmp_path / "plain.csv", logits, labels)
    assert np.array_equal(read_rows(named).labels, labels)
    assert np.array_equal(read_rows(plain).labels, labels)
    assert np.array_equal(read_rows(named).logits, logits)


def broken(change: str) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = made_up(40)
    if change == "NaN":
        logits[3, 1] = np.nan
    elif change == "infinite":
        logits[3, 1] = np.inf
    elif change == "one class":
        labels[:] = 1
    elif change == "probabilities":
        logits = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    elif change == "label":
        labels[5] = 3
    elif change == "regression":
        labels = labels + 0.5
    elif change == "empty":
        logits, labels = logits[:0], labels[:0]
    elif change == "generation":
        logits = logits[:, None, :]
    elif change == "lengths":
        labels = labels[:-1]
    return logits, labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("NaN", r"logits hold nan at \(3, 1\)"),
        ("infinite", r"logits hold inf at \(3, 1\)"),
        ("one class", "all 40 labels are class 1"),
        ("probabilities", "these look like probabilities, not logits"),
        ("label", "label 3 in row 5 is out of range: 3 classes allow 0 to 2"),
        ("regression", "Regression is not supported"),
        ("empty", "logits are empty"),
        ("generation", "Generation .* is not supported"),
        ("lengths", "labels have shape"),
    ],
)
def test_bad_logits_are_one_message(tmp_path, monkeypatch, capsys, change, message):
    logits, labels = broken(change)
    source = write_npz(tmp_path / "bad.npz", logits=logits, labels=labels)
    with pytest.raises(CalibrationError, match=message):
        read_rows(source)
    code, out, err = paretune(monkeypatch, capsys, "calibrate", source, "--to", "made")
    assert (code, out) == (2, "")
    assert err.startswith(f"paretune: {source}: ")
    assert "Traceback" not in err
    assert not Path("made").exists()


@pytest.mark.parametrize("form", [".3f", ".4f", ".5f", ".6f", ".3g"])
def test_rounded_probabilities_in_a_csv_file_are_no_logits(tmp_path, monkeypatch, capsys, form):
    logits, labels = broken("probabilities")
    texts = np.vectorize(lambda value: format(value, form))(logits)
    source = write_csv(tmp_path / "rounded.csv", texts, labels)
    code, _, err = paretune(monkeypatch, capsys, "calibrate", source)
    assert code == 2
    assert f"{source}: these look like probabilities, not logits" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the first line must name the columns, 'label' among them"),
        ("1.0,2.0,0\n", "the first line must name the columns"),
        ("a,b,a,label\n", "a column stands twice"),
        ("a,b,label\n1,2\n", "row 1 has 2 cells; the first line names 3 columns"),
        ("a,b,label\n1,two,0\n", "row 1 has 'two' in column 'b'; a logit is a number"),
        ("a,b,label\n1,,0\n", "row 1 has '' in column 'b'"),
        ('a,b,label\n1,"2,0\n', "cannot be read as CSV"),
    ],
)
def test_bad_csv_files_are_named_with_their_row(tmp_path, content, message):
    source = tmp_path / "bad.csv"
    source.write_text(content)
    with pytest.raises(InputError, match=message):
        read_rows(source)


@pytest.mark.parametrize("labels", [["a", "z"], ["0.5", "1"], ["", "1"]])
def test_labels_that_are_no_classes_are_refused(tmp_path, labels):
    source = tmp_path / "bad.csv"
    source.write_text("a,b,label\n" + "".join(f"1,2,{label}\n" for label in labels))
    with pytest.raises(CalibrationError, match="labels are"):
        read_rows(source)


def test_npz_files_run_nothing_and_hold_known_arrays(tmp_path):
    logits, labels = made_up(20)
    cases = {
        "pickled.npz": ({"logits": np.array([{}], dtype=object), "labels": labels}, "Object arrays cannot be loaded"),
        "unknown.npz": ({"logit": logits, "labels": labels}, r"unknown array 'logit'.*did you mean 'logits'"),
        "lacking.npz": ({"logits": logits}, "has no array 'labels'"),
        "twice.npz": ({"logits": logits, "labels": labels, "ids": np.zeros(20)}, "an id stands twice"),
        "short.npz": ({"logits": logits, "labels": labels, "groups": np.zeros(19)}, "groups have shape"),
    }
    for name, (arrays, message) in cases.items():
        with pytest.raises(InputError, match=message):
            read_rows(write_npz(tmp_path / name, **arrays))
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match="cannot be read as an NPZ file"):
        read_rows(tmp_path / "no.npz")
    with pytest.raises(InputError, match="is not a file"):
        read_rows(tmp_path / "missing.csv")
    (tmp_path / "logits.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"neither \.csv nor \.npz"):
        read_rows(tmp_path / "logits.pkl")


def test_folders_that_are_no_exports_are_refused(tmp_path):
    with pytest.raises(InputError, match="give a folder that `paretune export` wrote"):
        read_export(tmp_path)
    with pytest.raises(InputError, match="lacks 'calibration_logits'"):
        read_export(write_export(tmp_path / "early", calibration_logits=None))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "predictions.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        read_export(tmp_path / "broken")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "temprature"], "did you mean 'temperature'"),
        (["--kind", "platt"], "Platt scaling is for two classes"),
        (["--cross-fit", "--evaluate", "logits.csv"], "--cross-fit needs no other rows"),
        (["--evaluate", "two.csv"], "has 3 classes and two.csv has 2"),
        (["--to", "."], "exists; choose another folder"),
    ],
)
def test_options_that_do_not_fit_are_one_message(tmp_path, monkeypatch, capsys, words, message):
    write_csv(tmp_path / "logits.csv", *made_up(60))
    write_csv(tmp_path / "two.csv", *made_up(60, classes=2), ("a", "b"))
    code, _, err = paretune(monkeypatch, capsys, "calibrate", "logits.csv", *words)
    assert code == 2
    assert message in err
