"""What an actor does with a job, without Ray around it. Faults that end its process: see test_study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.tune.search import Searcher

from calibration.spec import CalibrationSpec
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Score
from evaluators.spec import ModelSpec, SyntheticSpec, TrainingSpec
from evaluators.synthetic import SyntheticEvaluator, SyntheticRun
from orchestrator.jobs import Failure, Job, _cause_of, _describe, in_crews
from orchestrator.runner import CandidateTrainable, _Jobs, _JobSearcher, _RungScheduler
from search_space.candidate import Candidate
from search_space.errors import DataError, EvaluationError, UnsupportedError
from search_space.notation import parse


def request(job: Job, seconds: float | None = None, late: str = "/nowhere/late", **faults: str) -> dict[str, Any]:
    synthetic = SyntheticSpec.model_validate({"faults": faults})
    spec = EvaluatorSpec(ModelSpec(name="-"), TrainingSpec(), CalibrationSpec(), "", 90, synthetic=synthetic)
    return {
        "request": json.dumps({"job": job.to_json(), "evaluator": spec.to_json(), "seconds": seconds, "late": late})
    }


def job_of(text: str = "lora", **given: Any) -> Job:
    return Job(**{"key": "search/3", "candidate": parse(text), "seed": 5, "rungs": (10, 30, 90), **given})


def actor(config: dict[str, Any]) -> CandidateTrainable:
    """Make an actor without Ray: what Ray would call, called here."""
    one = CandidateTrainable.__new__(CandidateTrainable)
    one.setup(config)
    return one


def reports(one: CandidateTrainable) -> list[dict[str, Any]]:
    found = []
    while not found or not found[-1]["done"]:
        found.append(one.step())
    return found


@pytest.mark.parametrize("job", [job_of(), job_of("lora + bitfit", folder="/x", test=True)])
def test_a_job_crosses_as_json(job: Job) -> None:
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_job_reports_at_every_rung() -> None:
    found = reports(actor(request(job_of())))
    scores = [Score.from_json(json.loads(one["report"])["score"]) for one in found]
    assert [one["done"] for one in found] == [False, False, True]
    assert [(score.step, score.seed) for score in scores] == [(10, 5), (30, 5), (90, 5)]
    assert all("test" not in json.loads(one["report"]) for one in found)


def test_only_who_may_reads_the_test_split_and_only_at_the_end() -> None:
    found = [json.loads(one["report"]) for one in reports(actor(request(job_of(test=True))))]
    assert ["test" in one for one in found] == [False, False, True]


def crew_of(text: str = "lora", rungs: tuple[int, ...] = (90,)) -> Job:
    one, *mates = [job_of(text, key=f"finalists/{n}", seed=n, rungs=rungs, test=True) for n in range(3)]
    return replace(one, mates=tuple(mates))


class Taking:
    """Work that keeps what it is told."""

    def __init__(self) -> None:
        self.scores: list[tuple[str, str, int]] = []
        self.ends: dict[str, Failure | None] = {}

    def on_score(self, job: Job, score: Score) -> bool:
        self.scores.append((job.key, score.split, score.seed))
        return True

    def on_end(self, job: Job, failure: Failure | None) -> None:
        self.ends[job.key] = failure


def settled(held: Job, report: dict[str, Any]) -> Taking:
    work = Taking()
    jobs = _Jobs(work, 10.0, {}, Path("/nowhere"))  # type: ignore[arg-type]
    jobs.held["t"] = (held, 0.0)
    scheduler = _RungScheduler(jobs)
    scheduler.on_trial_complete(None, SimpleNamespace(trial_id="t"), {"report": json.dumps(report), "done": True})
    assert not jobs.held
    return work


def test_jobs_of_one_candidate_are_one_crew() -> None:
    jobs = [job_of(text, key=f"finalists/{n}", seed=n) for n, text in enumerate(("lora", "ia3", "lora", "lora"))]
    crews = in_crews(jobs, 2)
    assert [[one.key for one in crew.crew] for crew in crews] == [
        ["finalists/0", "finalists/2"], ["finalists/1"], ["finalists/3"]
    ]  # fmt: skip
    assert in_crews(jobs, 1) == jobs
    assert Job.from_json(json.loads(json.dumps(crews[0].to_json()))) == crews[0]


def test_a_crew_is_trained_in_one_trial_and_each_reports() -> None:
    crew = crew_of()
    (one,) = reports(actor(request(crew)))
    assert one["done"]
    work = settled(crew, json.loads(one["report"]))
    assert work.scores == [(f"finalists/{n}", split, n) for n in range(3) for split in ("validation", "test")]
    assert work.ends == dict.fromkeys(("finalists/0", "finalists/1", "finalists/2"))


def test_what_fails_in_a_crew_fails_by_itself() -> None:
    (one,) = reports(actor(request(crew_of(), lora="nan")))
    ends = settled(crew_of(), json.loads(one["report"])).ends
    assert [failure and failure.cause for failure in ends.values()] == ["diverged"] * 3


@pytest.mark.parametrize("seeds", [(), (1,)])
def test_a_crew_that_memory_does_not_hold_is_trained_one_after_another(
    monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, ...]
) -> None:
    """Each begins anew when the one before is gone; who does not fit alone fails alone."""
    begun: list[weakref.ref[SyntheticRun]] = []
    alive: list[int] = []
    start = SyntheticEvaluator.start

    def started(self: SyntheticEvaluator, candidate: Candidate, seed: int, accumulation: int | None = None) -> Any:
        alive.append(sum(one() is not None for one in begun))
        if len(begun) >= 3 and seed in seeds:
            raise EvaluationError("out_of_memory", "too large")
        run = start(self, candidate, seed, accumulation)
        begun.append(weakref.ref(run))
        return run

    def full(*_: object) -> None:
        raise EvaluationError("out_of_memory", "too many")

    monkeypatch.setattr(SyntheticEvaluator, "start", started)
    monkeypatch.setattr(SyntheticEvaluator, "train_together", full)
    (one,) = reports(actor(request(crew_of())))
    ends = settled(crew_of(), json.loads(one["report"])).ends
    assert [failure and failure.cause for failure in ends.values()] == [
        "out_of_memory" if number in seeds else None for number in range(3)
    ]
    assert alive == [0, 1, 2, 0, 0, 0]


def test_a_crew_whose_process_dies_is_settled_whole() -> None:
    work = Taking()
    jobs = _Jobs(work, 10.0, {}, Path("/nowhere"))  # type: ignore[arg-type]
    jobs.held["t"] = (crew_of(), 0.0)
    _JobSearcher(jobs).on_trial_complete("t", None, error=True)
    assert [failure and failure.cause for failure in work.ends.values()] == ["crashed"] * 3


def test_a_crew_may_take_as_long_as_its_jobs_together() -> None:
    work = SimpleNamespace(next_job=crew_of)
    suggested = _JobSearcher(_Jobs(work, 10.0, {}, Path("/nowhere"))).suggest("t")  # type: ignore[arg-type]
    assert isinstance(suggested, dict)
    assert json.loads(suggested["request"])["seconds"] == 30.0


@pytest.mark.parametrize(("fault", "cause"), [("raise", "raised"), ("nan", "diverged"), ("oom", "out_of_memory")])
def test_a_failure_is_a_result(fault: str, cause: str) -> None:
    (one,) = reports(actor(request(job_of(), lora=fault)))
    assert json.loads(one["report"])["failure"]["cause"] == cause


def test_the_actor_takes_the_next_candidate_after_a_failure() -> None:
    one = actor(request(job_of(), lora="raise"))
    reports(one)
    evaluator = one._evaluator
    one.reset_config(request(job_of("ia3"), lora="raise"))
    assert [json.loads(found["report"])["score"]["step"] for found in reports(one)] == [10, 30, 90]
    assert one._evaluator is evaluator


@pytest.mark.parametrize(
    ("error", "cause", "text"),
    [
        (EvaluationError("diverged", "nan"), "diverged", "EvaluationError: nan"),
        (MemoryError(), "out_of_memory", "MemoryError: "),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory", "RuntimeError: CUDA error: out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory", "OutOfMemoryError: CUDA out of memory."),
        (UnsupportedError("no gate"), "unsupported", "UnsupportedError: no gate"),
        (DataError("gone"), "unsupported", "DataError: gone"),
        (KeyError("x"), "raised", "KeyError: 'x' (test_runner.py:"),
    ],
)
def test_causes_and_their_places(error: Exception, cause: str, text: str) -> None:
    with pytest.raises(type(error)) as raised:
        raise error
    assert _cause_of(raised.value) == cause
    assert _describe(raised.value).startswith(text)


def test_who_takes_too_long_ends_his_process_and_leaves_word(tmp_path: Path) -> None:
    code = (
        "import json, sys; from orchestrator.runner import CandidateTrainable;"
        "one = CandidateTrainable.__new__(CandidateTrainable); one.setup(json.loads(sys.argv[1])); one.step()"
    )
    config = json.dumps(request(job_of(), 0.2, str(tmp_path / "late"), lora="hang"))
    ended = subprocess.run([sys.executable, "-c", code, config], timeout=60, env={**os.environ})
    assert ended.returncode == 124
    assert (tmp_path / "late").exists()


@pytest.mark.parametrize("faults", [{}, {"lora": "raise"}])
def test_who_is_done_or_waits_is_not_ended(tmp_path: Path, faults: dict[str, str]) -> None:
    """Were the guard still there, this process would end."""
    one = actor(request(job_of(), 0.3, str(tmp_path / "late"), **faults))
    one.step()
    time.sleep(0.5)
    assert not (tmp_path / "late").exists()


def test_the_limit_is_for_all_rungs_together() -> None:
    one = actor(request(job_of(), 60.0))
    reports(one)
    assert 59.0 < one._seconds_left < 60.0


class _Recorded:
    """Work that notes how jobs end."""

    def __init__(self) -> None:
        self.ended: list[Failure | None] = []

    def next_job(self) -> Job:
        return job_of()

    def more_later(self) -> bool:
        return False

    def on_score(self, job: Job, score: Score) -> bool:
        return True

    def on_end(self, job: Job, failure: Failure | None) -> None:
        self.ended.append(failure)

    def should_stop(self) -> bool:
        return False


@pytest.mark.parametrize(("later", "answer"), [(True, None), (False, Searcher.FINISHED)])
def test_ray_is_told_to_ask_again_while_there_may_be_more(tmp_path: Path, later: bool, answer: str | None) -> None:
    work = SimpleNamespace(next_job=lambda: None, more_later=lambda: later)
    assert _JobSearcher(_Jobs(work, 0.0, {}, tmp_path)).suggest("t1") == answer  # type: ignore[arg-type]


@pytest.mark.parametrize(("late", "cause"), [(False, "crashed"), (True, "timeout")])
def test_a_process_that_died_is_a_timeout_only_when_it_left_word(tmp_path: Path, late: bool, cause: str) -> None:
    work = _Recorded()
    searcher = _JobSearcher(_Jobs(work, 0.0, {}, tmp_path))
    told = searcher.suggest("t1")
    assert isinstance(told, dict)
    if late:
        Path(json.loads(told["request"])["late"]).touch()
    searcher.on_trial_complete("t1", error=True)
    searcher.on_trial_complete("t1", error=True)
    assert [one and one.cause for one in work.ended] == [cause]


def test_a_cluster_of_our_own_lets_nobody_else_in() -> None:
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED")
    code = f"import os, orchestrator.runner; print(*(os.environ[name] for name in {names}))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    mode, token, statistics = told.stdout.split()
    assert (mode, len(token), statistics) == ("token", 64, "0")


def test_nothing_is_kept_by_ray(tmp_path: Path) -> None:
    one = actor(request(job_of()))
    one.save_checkpoint(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
