"""The benchmark of small data: its journal survives a cut, its rules choose as they say, its report is whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_data import findings as found_module
from benchmarks.small_data import measures, plan, report, selection
from benchmarks.small_data.data import Material
from benchmarks.small_data.figures import draw
from benchmarks.small_data.findings import findings
from benchmarks.small_data.journal import Journal, laplace_journals, one_pass_journals, packed_logits, unpacked_logits
from benchmarks.small_data.plan import Run
from benchmarks.small_data.report import markdown
from calibration.softmax import softmax
from evaluators.data import Examples

ROLES = ("validation", "calibration", "test")


def examples(classes: int, seed: int, count: int = 120) -> Examples:
    labels = np.random.default_rng(seed).integers(0, classes, count)
    return Examples(tuple((f"text {seed} {number}",) for number in range(count)), labels)


@pytest.fixture(scope="module")
def materials() -> dict[str, Material]:
    """Small sets in place of the real ones, with what people think of the sentences."""
    trec = {role: examples(6, number) for number, role in enumerate(ROLES)}
    movie = {role: examples(2, 9 + number) for number, role in enumerate((*ROLES, "amazon", "nyt", "tweets"))}
    positive = {role: 0.1 + 0.8 * one.labels for role, one in movie.items()}
    return {"trec": Material(trec["test"], trec, {}), "movie": Material(movie["test"], movie, positive)}


@pytest.fixture(scope="module")
def journals(materials, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Journal]:
    """Everything trained, in a way: logits that are the truer the more examples there are, and twice too sure."""
    folder, random = tmp_path_factory.mktemp("journals"), np.random.default_rng(0)
    journals = {}
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, materials)
        for task in plan.TASKS:
            journal = journals[task] = Journal(folder / f"{task}.jsonl")
            drawn = [Run(task, plan.POOL_SIZE, 0, f"lora(r={rank}) | lr=0.001", 0) for rank in range(3, 18)]
            for run in (*plan.grid(task, [0, 1]), *plan.ensembles(task), *drawn):
                if run not in journal.rows:
                    journal.append(run, _logits(run, materials[task], random), 1.0)
            for run in list(selection.picks(journal, task)):
                if run not in journal.rows:
                    journal.append(run, _logits(run, materials[task], random), 1.0)
    return journals


def _use(patch: pytest.MonkeyPatch, materials: dict[str, Material]) -> None:
    for module in (found_module, measures, selection):
        patch.setattr(module, "material", materials.__getitem__)


def _logits(run: Run, data: Material, random: np.random.Generator) -> dict[str, np.ndarray]:
    logits, strength = {}, np.log10(run.size) / 2 + random.normal() / 10
    for role, one in data.judged.items():
        scores = random.normal(size=(len(one), 6 if run.task == "trec" else 2))
        scores[np.arange(len(one)), one.labels] += strength
        logits[role] = 2.0 * scores
    return logits


def test_packed_logits_mean_the_same_probabilities() -> None:
    logits = 5.0 * np.random.default_rng(0).normal(size=(200, 6))
    assert np.abs(softmax(unpacked_logits(packed_logits(logits), 6)) - softmax(logits)).max() < 0.01


def test_a_line_that_was_cut_off_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    path, first = tmp_path / "trec.jsonl", Run("trec", 50, 0, "head", 0)
    Journal(path).append(first, {"test": np.zeros((3, 6))}, 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    again = Journal(path)
    assert set(again.rows) == {first}
    assert path.read_bytes() == whole
    failed = Run("trec", 50, 0, "full", 0)
    again.append(failed, None, 0.0, "diverged")
    assert not Journal(path).has_logits(failed)
    assert Journal(path).logits(first, 6)["test"].shape == (3, 6)


def test_rules_choose_by_validation_alone(journals, materials, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, materials)
    runs = selection.searched(journals["trec"], "trec")
    assert len(runs) == 16
    assert runs[0].candidate == plan.REFERENCE
    labels = materials["trec"].judged["validation"].labels
    for rule, loss in selection.RULES.items():
        losses = [loss(journals["trec"].logits(run, 6)["validation"], labels) for run in runs]
        assert selection.chosen(journals["trec"], runs, rule) == runs[int(np.argmin(losses))]


def test_the_report_is_json_pictures_and_a_page(journals, materials, monkeypatch, tmp_path: Path) -> None:
    _use(monkeypatch, materials)
    found = findings(journals)
    json.dumps(found, allow_nan=False)
    assert {row["role"] for row in found["grid"]} == {"test", "amazon", "nyt", "tweets"}
    home = [row for row in found["grid"] if row["role"] == "test"]
    assert len(home) == 2 * len(plan.SIZES) * len(plan.METHODS)
    gains = [row["nll"] - row["nll_after"] for row in home]
    assert np.mean(gains) > 0, "they are twice too sure"
    assert all(one["ensemble"]["nll_after"] < one["one_member"] for one in found["search"].values())
    names = draw(found, tmp_path)
    assert names == ["sizes.png", "shift.png", "search.png"]
    page = markdown(found, names)
    for words in ("People as the truth", "Shift", "Calibration rows", "calibrated NLL", "Goal"):
        assert words in page


def test_an_unfinished_journal_has_a_report(tmp_path: Path, materials, monkeypatch) -> None:
    _use(monkeypatch, materials)
    journals = {task: Journal(tmp_path / f"{task}.jsonl") for task in plan.TASKS}
    assert "0 trainings" in markdown(findings(journals), [])
    run = Run("trec", 50, 0, "head", 0)
    journals["trec"].append(run, _logits(run, materials["trec"], np.random.default_rng(0)), 1.0)
    assert "| 50 | head |" in markdown(findings(journals), draw(findings(journals), tmp_path))


def test_ways_to_one_pass_are_judged_beside_the_ensemble(journals, materials, monkeypatch, tmp_path: Path) -> None:
    _use(monkeypatch, materials)
    random, ways = np.random.default_rng(1), one_pass_journals(tmp_path)
    assert found_module.one_pass(journals["trec"], ways) == {}, "nothing trained"
    reference = Run("trec", plan.POOL_SIZE, 0, plan.REFERENCE, 0)
    for way, journal in ways.items():
        drawn = [replace(reference, candidate=f"lora(r={rank}) | lr=0.001") for rank in range(2, 14)]
        for run in drawn if way == "searched" else [replace(reference, seed=seed) for seed in range(3)]:
            journal.append(run, _logits(run, materials["trec"], random), 3600.0)
    picks = selection.one_pass_picks(ways["searched"])
    assert [run.seed for run in picks] == list(range(plan.SEEDS))
    labels = materials["trec"].judged["validation"].labels
    losses = {run: selection.cross_fitted_nll(ways["searched"].logits(run, 6)["validation"], labels) for run in drawn}
    assert picks[0] == min(losses, key=lambda run: losses[run])
    assert found_module.one_pass(journals["trec"], ways) == {}, "the pick has one seed"
    for run in picks[1:]:
        ways["searched"].append(run, _logits(run, materials["trec"], random), 3600.0)
    found = found_module.one_pass(journals["trec"], ways)
    assert [one["way"] for one in found["ways"]] == list(plan.ONE_PASS_WAYS)
    assert [one["seeds"] for one in found["ways"]] == [3, 3, 3, 3, 5]
    assert found["core_hours"] == pytest.approx(3 + 3 + 3 + 12 + 4), "weights that are averaged train nothing more"
    assert found["longer_ensemble"]["nll_after"] < found["ways"][0]["nll_after"]
    for one in found["ways"]:
        assert one["less_ensemble"]["value"] == pytest.approx(one["nll_after"] - found["ensemble"], abs=1e-6)
    page = "\n".join(report._one_pass(found))
    assert "One pass instead of five" in page
    assert "Goal, the searched pick at one pass not worse than the ensemble of as much training" in page


def test_posteriors_are_set_beside_the_runs_they_are_of(materials, monkeypatch, tmp_path: Path) -> None:
    _use(monkeypatch, materials)
    random, posteriors = np.random.default_rng(2), laplace_journals(tmp_path)
    assert found_module.laplace(posteriors) == []
    for seed in range(3):
        run = Run("trec", 200, seed, plan.REFERENCE, seed)
        said = _logits(run, materials["trec"], random)
        for name, journal in posteriors.items():
            journal.append(run, {role: one / (1.0 if name == "plain" else 2.0) for role, one in said.items()}, 2.0)
    found = {one["name"]: one for one in found_module.laplace(posteriors)}
    assert list(found) == ["plain", *plan.SPREADS]
    assert found["diagonal"]["nll"] < found["plain"]["nll"], "they are twice too sure"
    assert found["diagonal"]["less_plain"]["value"] == pytest.approx(0.0, abs=1e-3), "which a temperature mends too"
    page = "\n".join(report._laplace(list(found.values())))
    assert "adapter, Kronecker" in page


def test_the_mean_of_weights_is_over_the_later_steps() -> None:
    from types import SimpleNamespace
    from typing import cast

    import torch

    from benchmarks.small_data.one_pass import Mean
    from evaluators.attach import Attached

    weight = torch.nn.Parameter(torch.zeros(2))
    attached, mean = cast(Attached, SimpleNamespace(trainable=[weight])), Mean(3)
    for step in range(1, 6):
        with torch.no_grad():
            weight.fill_(float(step))
        mean.add(attached, step)
    mean.put(attached)
    assert weight.tolist() == [4.0, 4.0]


@pytest.mark.slow
def test_a_candidate_learns() -> None:
    """Autocast keeps cast weights for as long as it lasts: training inside one region learns nothing."""
    from benchmarks.small_data.data import material
    from benchmarks.small_data.training import logits_of
    from search_space.errors import InstallationError

    try:
        labels = material("trec").judged["test"].labels
    except InstallationError as error:
        pytest.skip(str(error))
    logits, _ = logits_of(Run("trec", 200, 0, plan.METHODS["LoRA r=8"], 0), steps=60)
    assert np.mean(logits["test"].argmax(axis=1) == labels) > 0.5


@pytest.mark.slow
def test_a_candidate_learns_what_others_say() -> None:
    """Soft targets that put everything on one class teach that class."""
    from benchmarks.small_data.training import Lesson, judged_logits, labelled, trained
    from search_space.errors import InstallationError

    run = Run("trec", 50, 0, plan.METHODS["LoRA r=8"], 0)
    try:
        tokens = labelled(run).tokens
    except InstallationError as error:
        pytest.skip(str(error))
    targets = np.tile(np.eye(6)[2], (len(tokens.ids), 1))
    said = judged_logits("trec", trained(run, 30, Lesson(tokens, targets)))["test"]
    assert np.mean(said.argmax(axis=1) == 2) > 0.95
