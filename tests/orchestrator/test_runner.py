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
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from calibration.spec import CalibrationSpec
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Score
from evaluators.spec import ModelSpec, SyntheticSpec, TrainingSpec
from evaluators.synthetic import SyntheticCrew, SyntheticEvaluator, SyntheticRun
from orchestrator import runner
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
    """Work that keeps what it is told, and stops jobs at given steps."""

    def __init__(self, **stops: int) -> None:
        self.scores: list[tuple[str, str, int]] = []
        self.ends: dict[str, Failure | None] = {}
        self.stops = stops

    def on_score(self, job: Job, score: Score) -> bool:
        self.scores.append((job.key, score.split, score.seed))
        return self.stops.get(job.key.replace("/", "_")) != score.step

    def on_end(self, job: Job, failure: Failure | None) -> None:
        assert job.key not in self.ends
        self.ends[job.key] = failure


class Blackboard:
    """Stands for ray, as far as members of crews are stopped by it."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.stop = SimpleNamespace(remote=self.keys.append)
        self.stopped = SimpleNamespace(remote=lambda keys: [key for key in keys if key in self.keys])

    def get_actor(self, name: str) -> Blackboard:
        assert name == "board"
        return self

    def get(self, answer: Any) -> Any:
        return answer


def settled(held: Job, one: CandidateTrainable, work: Taking | None = None) -> Taking:
    """Train a crew as Ray Tune would, until it is settled."""
    work = work or Taking()
    jobs = _Jobs(work, 10.0, {}, Path("/nowhere"), "board")  # type: ignore[arg-type]
    jobs.held["t"] = (held, 0.0)
    scheduler, trial = _RungScheduler(jobs), SimpleNamespace(trial_id="t")
    while jobs.held:
        result = one.step()
        if result["done"]:
            scheduler.on_trial_complete(None, trial, result)
            assert not jobs.held
        else:
            goes_on = scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
            assert goes_on == bool(jobs.held)
    assert not jobs.ended
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
    work = settled(crew, actor(request(crew)))
    assert work.scores == [(f"finalists/{n}", split, n) for n in range(3) for split in ("validation", "test")]
    assert work.ends == dict.fromkeys(("finalists/0", "finalists/1", "finalists/2"))


def test_what_fails_in_a_crew_fails_by_itself() -> None:
    ends = settled(crew_of(), actor(request(crew_of(), lora="nan"))).ends
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
    monkeypatch.setattr(SyntheticCrew, "train", full)
    ends = settled(crew_of(), actor(request(crew_of()))).ends
    assert [failure and failure.cause for failure in ends.values()] == [
        "out_of_memory" if number in seeds else None for number in range(3)
    ]
    assert alive == [0, 1, 2, 0, 0, 0]


RUNGS = (10, 30, 90)


def told(monkeypatch: pytest.MonkeyPatch) -> Blackboard:
    board = Blackboard()
    monkeypatch.setattr(runner, "ray", board)
    return board


def on_board(job: Job, **faults: str) -> CandidateTrainable:
    data = json.loads(request(job, **faults)["request"])
    return actor({"request": json.dumps(data | {"board": "board"})})


def test_each_member_of_a_crew_reports_at_its_rungs_and_may_be_stopped_there(monkeypatch: pytest.MonkeyPatch) -> None:
    board, crew = told(monkeypatch), crew_of(rungs=RUNGS)
    advanced: list[tuple[int, int]] = []
    advance = SyntheticRun.advance

    def noted(self: SyntheticRun, step: int) -> Score:
        advanced.append((self.seed, step))
        return advance(self, step)

    monkeypatch.setattr(SyntheticRun, "advance", noted)
    work = settled(crew, on_board(crew), Taking(finalists_1=10))
    assert advanced == [(0, 10), (1, 10), (2, 10), (0, 30), (2, 30), (0, 90), (2, 90)]
    assert board.keys == ["finalists/1"]
    assert work.ends == dict.fromkeys(("finalists/0", "finalists/1", "finalists/2"))
    assert next(iter(work.ends)) == "finalists/1"


def test_a_crew_ends_when_all_of_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch)
    crew = crew_of(rungs=RUNGS)
    work = settled(crew, on_board(crew), Taking(finalists_0=30, finalists_1=10, finalists_2=30))
    assert list(work.ends) == ["finalists/1", "finalists/0", "finalists/2"]
    assert [seed for _, _, seed in work.scores] == [0, 1, 2, 0, 2]


def test_who_fails_in_a_crew_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch)
    one, *mates = [job_of(text, key=f"search/{n}", rungs=RUNGS) for n, text in enumerate(("lora", "vera", "ia3"))]
    crew = replace(one, mates=tuple(mates))
    work = settled(crew, on_board(crew, vera="nan"))
    assert {key: end and end.cause for key, end in work.ends.items()} == {
        "search/0": None, "search/1": "diverged", "search/2": None
    }  # fmt: skip


def test_who_cannot_be_attached_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch)
    start = SyntheticEvaluator.start

    def refused(self: SyntheticEvaluator, candidate: Candidate, seed: int, accumulation: int | None = None) -> Any:
        if seed == 1:
            raise UnsupportedError("not on this model")
        return start(self, candidate, seed, accumulation)

    monkeypatch.setattr(SyntheticEvaluator, "start", refused)
    crew = crew_of(rungs=RUNGS)
    work = settled(crew, on_board(crew))
    assert {key: end and end.cause for key, end in work.ends.items()} == {
        "finalists/0": None, "finalists/1": "unsupported", "finalists/2": None
    }  # fmt: skip


def test_where_memory_runs_out_at_a_later_rung_each_goes_on_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch)
    crew = crew_of(rungs=RUNGS)
    gains: list[tuple[int, int, float | None]] = []

    def full(_: SyntheticCrew, step: int) -> None:
        if step == 30:
            raise EvaluationError("out_of_memory", "too many")

    class Noting(Taking):
        def on_score(self, job: Job, score: Score) -> bool:
            gains.append((score.seed, score.step, score.values.get("packing_gain")))
            return super().on_score(job, score)

    monkeypatch.setattr(SyntheticCrew, "train", full)
    work = settled(crew, on_board(crew), Noting(finalists_1=30))
    validated = [one for at, one in enumerate(gains) if work.scores[at][1] == "validation"]
    assert validated == [
        *((seed, 10, None) for seed in range(3)),
        *((seed, step, 1.0) for seed, step in ((0, 30), (0, 90), (1, 30), (2, 30), (2, 90))),
    ]


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


class TestWhatPauses:
    """A job that keeps what it has at a rung, and goes on from there: on the same actor, on another, or anew."""

    def first(self, folder: Path) -> Job:
        return job_of(folder=str(folder), keeps=True)

    def later(self, folder: Path) -> Job:
        return job_of(folder=str(folder), keeps=True, goes_on=True, rungs=(30, 90))

    @pytest.fixture
    def begun(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """At which step each run began that was started, once it trains."""
        steps: list[int] = []
        start, advance = SyntheticEvaluator.start, SyntheticRun.advance

        def started(self: SyntheticEvaluator, *given: Any) -> SyntheticRun:
            run = start(self, *given)
            run.__dict__["is_new"] = True
            return run

        def advanced(self: SyntheticRun, step: int) -> Score:
            if self.__dict__.pop("is_new", False):
                steps.append(self.step)
            return advance(self, step)

        monkeypatch.setattr(SyntheticEvaluator, "start", started)
        monkeypatch.setattr(SyntheticRun, "advance", advanced)
        return steps

    def scores(self, one: CandidateTrainable) -> list[int]:
        return [Score.from_json(json.loads(report["report"])["score"]).step for report in reports(one)]

    def test_on_its_actor_it_goes_on_where_it_stands(self, tmp_path: Path, begun: list[int]) -> None:
        one = actor(request(self.first(tmp_path)))
        one.step()
        one.reset_config(request(self.later(tmp_path)))
        assert self.scores(one) == [30, 90]
        assert begun == [0]

    @pytest.mark.parametrize("meanwhile", [True, False])
    def test_elsewhere_or_after_another_it_goes_on_from_its_folder(
        self, tmp_path: Path, begun: list[int], meanwhile: bool
    ) -> None:
        one = actor(request(self.first(tmp_path)))
        one.step()
        if meanwhile:
            one.reset_config(request(job_of(key="search/4")))
            one.step()
            one.reset_config(request(self.later(tmp_path)))
        else:
            one = actor(request(self.later(tmp_path)))
        assert self.scores(one) == [30, 90]
        assert begun == [0, 0, 10] if meanwhile else begun == [0, 10]

    def test_where_what_was_kept_is_lost_it_begins_anew(self, tmp_path: Path, begun: list[int]) -> None:
        assert self.scores(actor(request(self.later(tmp_path)))) == [30, 90]
        assert begun == [0]

    def test_nothing_is_kept_of_a_job_that_does_not_pause(self, tmp_path: Path) -> None:
        reports(actor(request(job_of(folder=str(tmp_path)))))
        assert not list(tmp_path.iterdir())

    def test_the_time_of_a_trial_is_that_of_all_its_turns(self, tmp_path: Path) -> None:
        work = Taking(search_3=10)
        jobs = _Jobs(work, 10.0, {}, tmp_path)  # type: ignore[arg-type]
        jobs.held["t"] = (self.first(tmp_path), 0.0)
        result = actor(request(self.first(tmp_path), seconds=10.0)).step()
        decision = _RungScheduler(jobs).on_trial_result(None, SimpleNamespace(trial_id="t"), result)
        assert decision == TrialScheduler.STOP
        left = jobs.limit_of(self.later(tmp_path))
        assert left is not None
        assert 0 < left < 10.0
        assert jobs.limit_of(job_of(key="search/4")) == 10.0

    @pytest.mark.parametrize(("seconds", "cause"), [(7.0, "crashed"), (11.0, "timeout")])
    def test_on_a_cluster_the_clock_tells_who_was_late_from_where_the_turn_began(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, cause: str
    ) -> None:
        """What is left of the limit behind a rung is not counted from before that rung."""
        monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
        now, ends = [100.0], dict[str, Failure]()
        monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0]))
        work = SimpleNamespace(next_job=job_of, on_end=lambda job, failure: ends.update({job.key: failure}))
        jobs = _Jobs(work, 10.0, {}, tmp_path)  # type: ignore[arg-type]
        searcher = _JobSearcher(jobs)
        searcher.suggest("t")
        jobs.left["search/3"] = 4.0
        now[0] += seconds
        searcher.on_trial_complete("t", error=True)
        assert ends["search/3"].cause == cause
