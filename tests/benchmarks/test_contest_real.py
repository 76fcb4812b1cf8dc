"""The contest on real training, with a formula in its place: nothing twice, and on from where it stopped."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contest import real, real_report
from benchmarks.contest.arena import Arena, Finished
from benchmarks.contest.journal import Entry
from benchmarks.contest.journal import write as write_entry
from benchmarks.contest.real import Kept, Trained
from calibration.spec import CalibrationSpec
from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec, TrainingSpec
from evaluators.synthetic import SyntheticCoster
from evaluators.tabulated import Header, Table
from orchestrator.preparation import Prepared
from search_space.candidate import Candidate
from search_space.errors import EvaluationError
from tests.orchestrator.tables import RUNGS, _accuracy, space_of, spec_of

STEPS = 6 * RUNGS[-1]
LIMIT = 50_000


class Killed(BaseException):
    """Stands for a process that ends."""


class School:
    """Trains by a formula, counts what it is asked for, and can be killed."""

    def __init__(self, most: int = 10**9, failing: str = "") -> None:
        self.most, self.failing, self.begun = most, failing, Counter[str]()

    def __call__(self, candidate: Candidate) -> Callable[[int], Trained]:
        self.begun[candidate.sha256] += 1
        if sum(self.begun.values()) > self.most:
            raise Killed

        def train(step: int) -> Trained:
            if candidate.method == self.failing:
                raise EvaluationError("diverged", "not finite")
            return ({"accuracy": _accuracy(candidate, step)},) * 2

        return train


def prepared() -> Prepared:
    spec = spec_of()
    evaluator = EvaluatorSpec(ModelSpec(name="-"), TrainingSpec(), CalibrationSpec(), "", RUNGS[-1])
    return Prepared(space_of(spec), SyntheticCoster(), {"trainable_params": float(LIMIT)}, evaluator, ())


def kept(folder: Path, school: School) -> Kept:
    header = Header(spec_of().to_json(), RUNGS, ("accuracy",), {"backbone_parameters": 1_000_000})
    return Kept(folder / "rows.jsonl", header, school, SyntheticCoster().cost)


def searched(name: str, folder: Path, school: School) -> Iterator[Finished]:
    ready, rows = prepared(), kept(folder, school)
    if name == "forest":
        spec: dict[str, Any] = {**spec_of().to_json(), "budgets": {"trainable_params": LIMIT}}
        return real.forest(ready, rows, spec, STEPS, 0)
    if name == "random":
        return real.at_random(ready, rows, STEPS, 0)
    return real.autopeft(ready, rows, 2, STEPS, 0)


@pytest.mark.parametrize("name", ["forest", "random", pytest.param("autopeft", marks=pytest.mark.slow)])
def test_a_search_that_was_cut_off_comes_to_where_it_was_and_trains_nothing_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "POOL", 40)
    if name == "autopeft" and importlib.util.find_spec("botorch") is None:
        pytest.skip("botorch is not installed: pip install paretune[bench]")
    (tmp_path / "whole").mkdir()
    whole = [(one.at, one.row.key) for one in searched(name, tmp_path / "whole", School())]
    assert whole
    assert all(at <= STEPS for at, _ in whole)
    first = School(most=5)
    with pytest.raises(Killed):
        list(searched(name, tmp_path, first))
    ended = {key for (key, _), row in Table.read(tmp_path / "rows.jsonl").rows.items() if len(row.validation) == 3}
    assert ended
    again = School()
    assert [(one.at, one.row.key) for one in searched(name, tmp_path, again)] == whole
    assert not ended & set(again.begun), "what paused is trained again from its start, what ended is not"
    last = School()
    assert [(one.at, one.row.key) for one in searched(name, tmp_path, last)] == whole
    assert not last.begun


def test_what_fails_is_kept_and_not_tried_again(tmp_path: Path) -> None:
    school = School(failing="ia3")
    found = list(searched("random", tmp_path, school))
    failed = [row for row in Table.read(tmp_path / "rows.jsonl").rows.values() if row.cause]
    assert {row.candidate.method for row in failed} == {"ia3"}
    assert failed[0].cause == "diverged"
    assert not {one.row.key for one in found} & {row.key for row in failed}
    assert list(searched("random", tmp_path, again := School(failing="ia3")))
    assert not again.begun


def test_the_report_tells_each_search_and_every_budget_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    school = School()
    ours, chance = list(searched("forest", tmp_path, school)), list(searched("random", tmp_path, school))
    half = STEPS // 2
    entries = [
        *(_entry(real.SEARCHES[0], seed, STEPS, ours) for seed in range(2)),
        *(_entry(real.SEARCHES[1], seed, STEPS, chance) for seed in range(2)),
        _entry(real.SEARCHES[2], 0, STEPS, chance[:1]),
        _entry(real.SEARCHES[0], 0, half, [one for one in ours if one.at <= half]),
    ]
    for one in entries:
        write_entry(one, tmp_path / "journal.jsonl")
    rows = real_report.trained(Table.read(tmp_path / "rows.jsonl"), entries)
    arena = Arena("trec, trained", rows, space_of(spec_of()), 2, LIMIT)
    written: dict[str, Any] = {}
    monkeypatch.setattr(real_report, "journal_path", lambda: tmp_path / "journal.jsonl")
    monkeypatch.setattr(real_report, "arena_of", lambda task, held: arena)
    monkeypatch.setattr(real_report, "PICTURES", tmp_path)
    monkeypatch.setattr(
        real_report, "write", lambda *given: written.update(zip(("name", "data", "text", "module"), given, strict=True))
    )
    real_report.report()

    first, second = written["data"]["contests"]
    assert (first["steps"], second["steps"], written["module"]) == (half, STEPS, "contest.real")
    assert all((tmp_path / f"contest-real-trec-{steps}.png").stat().st_size for steps in (half, STEPS))
    found = second["searches"][real.SEARCHES[0]]
    assert found["volume"][0] == pytest.approx(arena.volume([one.row for one in ours]))
    assert [one[0] for one in found["volumes"]] == sorted(one[0] for one in found["volumes"])
    assert all(low <= mean <= high for mean, low, high in found["volumes"])
    assert min(one[0] for one in found["regrets"]) > -0.5
    assert second["searches"][real.SEARCHES[2]]["volume"][1:] == (None, None)
    there = second["reached"][real.SEARCHES[2]]
    worth = arena.volume([chance[0].row])
    soonest = next(one.at for at, one in enumerate(ours, 1) if arena.volume([two.row for two in ours[:at]]) >= worth)
    assert there["share"] == pytest.approx((soonest / STEPS,) * 3)
    text = written["text"]
    assert text.startswith("## Contest on real training")
    assert text.count("### trec, trained: ") == 2
    row = next(line for line in text.splitlines() if line.startswith(f"| {real.SEARCHES[2]} | 1 |"))
    assert f"| {worth:.3f} [-] |" in row
    assert "samples the SAAS prior with NUTS" in text


def _entry(search: str, seed: int, steps: int, found: list[Finished]) -> Entry:
    return Entry("trec, trained", "", search, seed, steps, tuple((one.at, one.row.candidate.sha256) for one in found))
