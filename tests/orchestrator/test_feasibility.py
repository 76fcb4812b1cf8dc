"""Spaces of which nothing can be trained: refused before the first trial, with the reason or what would admit one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluators.score import Cost
from orchestrator import feasibility
from orchestrator.feasibility import require_trainable
from orchestrator.home import Home
from orchestrator.preparation import Prepared, prepare
from orchestrator.screening import Refusals
from orchestrator.spec import parse
from orchestrator.study import run_study
from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, EvaluationError, UnsupportedError
from tests.evaluators.tiny import questions_file, tiny_folder
from tests.orchestrator import in_process
from tests.orchestrator.in_process import Watched, spec_of, store_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    tiny_folder(path / "model", num_labels=3)
    return path


def prepared(folder: Path, space: Any = "lora", **budgets: str) -> Prepared:
    data = {
        "name": "small",
        "model": {"name": str(folder / "model"), "device": "cpu", "dtype": "float32", "attention": "sdpa"},
        "task": questions_file(folder),
        "training": {"batch_size": 8, "max_length": 16},
        "space": space,
        "budgets": budgets,
    }
    return prepare(parse(data), folder)


@pytest.mark.parametrize("budget", ["memory", "inference_memory", "checkpoint", "flops"])
def test_a_budget_that_nothing_keeps_is_refused_with_one_that_admits_something(folder: Path, budget: str) -> None:
    with pytest.raises(EmptySpaceError, match=rf"the nearest, lora\(.* Raise budgets\.{budget} to \S+, or") as refused:
        prepared(folder, **{budget: "2"})
    found = re.search(rf"Raise budgets\.{budget} to (\S+),", str(refused.value))
    assert found is not None
    assert prepared(folder, **{budget: found[1]}).limits


def test_a_space_that_the_model_cannot_carry_says_why(folder: Path) -> None:
    with pytest.raises(EmptySpaceError, match=r"no candidate of it: \d+ of \d+: c3a: block_size = 4[08] does not"):
        prepared(folder, {"methods": {"c3a": {"block_size": [48, 40]}}})


def test_one_size_that_divides_is_found_among_those_that_do_not(folder: Path) -> None:
    assert prepared(folder, {"methods": {"c3a": {"block_size": [48, 40, 36, 44, 52, 8]}}}).space.size > 1


def test_what_needs_the_least_memory_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sizes and layers the smallest in memory admits the space, though no draw would."""
    monkeypatch.setattr(feasibility, "_DRAWS", 0)
    monkeypatch.setattr(feasibility, "_LEAST_DRAWS", 0)
    one = prepared(folder)
    costs: list[int] = []

    def cost(candidate: Candidate) -> Cost:
        found = one.cost(candidate)
        costs.append(found.peak_memory_bytes or 0)
        return found

    with pytest.raises(EmptySpaceError):
        require_trainable(one.space, one.fitting(0), cost, {"peak_memory_bytes": 1.0})
    require_trainable(one.space, one.fitting(0), one.cost, {"peak_memory_bytes": float(min(costs))})
    assert min(costs) < costs[0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    in_process.forget_settings(monkeypatch)
    in_process.in_this_process(monkeypatch)
    return Home(tmp_path).create()


def refusing(monkeypatch: pytest.MonkeyPatch, *ranks: int) -> None:
    """Let preparation pass, and costing refuse LoRA of some ranks."""
    monkeypatch.setattr("orchestrator.preparation.require_trainable", lambda *_, **__: None)
    cost = Prepared.cost

    def refused(self: Prepared, candidate: Candidate, factor: float = 1.0) -> Cost:
        asked[candidate.architecture_sha256] += 1
        if dict(candidate.parts[0].knobs)["r"] in ranks:
            raise UnsupportedError("no such rank here")
        return cost(self, candidate, factor)

    asked.clear()
    monkeypatch.setattr(Prepared, "cost", refused)


asked: Counter[str] = Counter()
SPACE = {"methods": {"lora": {"r": [2, 4], "alpha": [8], "layers": "all", "projections": ["linear"]}}, "hybrids": []}
SPACE["methods"]["lora"] |= {"use_dora": False, "use_rslora": False}  # type: ignore[index]


def test_a_search_that_gets_nothing_says_why(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, 2, 4)
    store = store_of(home, spec_of("refused", space=SPACE, search={"references": []}))
    with pytest.raises(EmptySpaceError, match=r"no candidate of it can be trained: (\d+) of \1: no such rank here"):
        run_study(store, home, Watched())
    assert store.noted("status") == "failed"
    assert len(store.trials()) <= 4


def test_an_architecture_that_was_refused_is_not_costed_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, 2)
    store = store_of(home, spec_of("half", space=SPACE, search={"references": [], "finalists": {"count": 0}}))
    run_study(store, home, Watched())
    trials = store.trials()
    refused = [one.candidate.architecture_sha256 for one in trials if one.state == "infeasible"]
    assert len(refused) == len(set(refused)) == 1
    assert asked[refused[0]] == 1
    assert sum(one.state != "infeasible" for one in trials) == 12


def test_a_study_of_which_every_candidate_failed_is_a_failure(home: Home) -> None:
    faults = {"lora": "oom"}
    store = store_of(home, spec_of("failing", space=SPACE, search={"references": []}, synthetic={"faults": faults}))
    with pytest.raises(EvaluationError, match=r"every candidate that was trained failed: 12 of 12: out_of_memory, "):
        run_study(store, home, Watched())
    assert store.noted("status") == "failed"
    assert [one.state for one in store.trials()] == ["failed"] * 12


def test_refusals_count_architectures_over_a_limit() -> None:
    over, within = Cost(100, 1), Cost(5, 1)
    tried = [(f"{at}", state, cost) for at, (state, cost) in enumerate(
        [("infeasible", None), ("infeasible", over), ("infeasible", within), ("complete", within)]
    )]  # fmt: skip
    trials = [
        SimpleNamespace(candidate=SimpleNamespace(architecture_sha256=sha), state=state, cost=cost, score=None)
        for sha, state, cost in tried
    ]
    limits = {"trainable_params": 10.0}
    refusals = Refusals(limits)
    refusals.note(trials[0])  # type: ignore[arg-type]
    assert refusals.under(1.0) == {"0"}
    for one in trials[1:]:
        refusals.note(one)  # type: ignore[arg-type]
    assert refusals.under(1.0) == {"0", "1"}
    limits["trainable_params"] = 200.0
    assert refusals.under(1.1) == {"0"}, "with another factor all are looked at again"
