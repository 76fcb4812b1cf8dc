"""How asking and telling grow with the number of trials that a study holds, and which part of them grows.

    python -m benchmarks.scale [--quick] [--most 10000] [--samplers tpe random forest]

A study in SQLite with made-up scores and no training, run by what runs every study (`SearchWork`). Candidates are
drawn, screened, written, looked at on their rungs, stopped or not, and told. It is filled by random draws up to each
mark. There every sampler goes on with a copy of it, as with a study that is resumed, and after some trials that are not
counted, the next ones are timed: from the ask to the end, those rejected before included.

What is told is the processor time of the process, which other work on the machine changes little; what the clock said
is in the results too. The parts are those of the same trials, the mean of each; an exponent is the slope of its
logarithm over that of the number of trials, from 500 trials on.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import write
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Score
from evaluators.synthetic import SyntheticCoster, synthetic_params
from orchestrator.early_stopping import rungs_of
from orchestrator.jobs import Job
from orchestrator.preparation import Prepared
from orchestrator.proposals import FOREST
from orchestrator.search_work import SearchWork
from orchestrator.simulation import Unwatched
from orchestrator.spec import SearchSpec, StudySpec, parse
from orchestrator.storage import Storage, StudyStore
from orchestrator.trial import Trial
from orchestrator.work import Bench, Stop, place_of
from search_space.candidate import Candidate
from search_space.space import bind

GOAL_MS, GOAL_TRIALS = 100.0, 2000
STEPS = 90
PARTS = ("proposal", "draw", "storage", "rungs", "the rest")
"""What a model promises; what a sampler draws, brought within the budgets; writing; early stopping; screening."""
_STUDY = "scale"
_FILLED = ("random", FOREST)
"""Studies are filled by random draws: where the forest searches candidates pause, elsewhere they do not."""
_MARKS = (100, 200, 500, 1000, 2000, 5000, 10_000)
_GROWING_FROM = 500
_UNCOUNTED, _TIMED = 3, 20
_ALONE = 1.2
"""How many times the processor's time the clock may say where nothing else runs."""


class Side:
    """A study with one sampler, its jobs ended as soon as they begin.

    A turn is a job that is asked for and what is told of it: a new trial, or one that pauses and goes on. It ends where
    the trial ends or pauses.

    Attributes:
        processor: Milliseconds of each turn, of the processor.
        clock: The same by the clock.
        parts: Milliseconds of the processor for each part, of all turns together.
    """

    def __init__(self, store: StudyStore, folder: Path) -> None:
        spec, coster = store.spec, SyntheticCoster()
        space, limits = bind(spec.space, coster.anatomy), spec.budgets.limits(coster.parameters)
        evaluator = EvaluatorSpec(spec.model, spec.training, spec.calibration, "", STEPS)
        prepared = Prepared(space, coster, limits, evaluator, ("a", "b"))
        bench = Bench(store, prepared, folder, Unwatched(), Stop(store, None, 0.0), lambda _trial: None)
        self.work = SearchWork(bench, [], rungs_of(spec, STEPS))
        self._counting = False
        self._forget()
        self._watch(self.work._proposals, "proposal", "propose")
        self._watch(store, "draw", "ask")
        self._watch(store, "storage", "start", "report", "constrain", "pause", "resume", "finish")
        self._watch(self.work.rungs, "rungs", "goes_on", "pauses", "record")

    def fill(self, trials: int) -> None:
        """Run until there are so many trials: drawn at random, and of those that pause one in four goes on."""
        self.work._proposals.propose = _at_random  # type: ignore[method-assign]
        while len(self.work._known) < trials:
            self._turn()

    def timed(self) -> dict[str, Any]:
        """Run some turns that do not count, then those that do. Returns their times as JSON data."""
        for _ in range(_UNCOUNTED):
            self._turn()
        self._forget()
        jobs = [self._turn() for _ in range(_TIMED)]
        self._check(jobs)
        parts = {name: self.parts[name] / _TIMED for name in PARTS}
        return {
            "processor": statistics.median(self.processor),
            "clock": statistics.median(self.clock),
            "parts": {**parts, PARTS[-1]: statistics.mean(self.processor) - sum(parts.values())},
        }

    def _forget(self) -> None:
        self.processor: list[float] = []
        self.clock: list[float] = []
        self.parts: dict[str, float] = defaultdict(float)

    def _watch(self, owner: object, part: str, *methods: str) -> None:
        for name in methods:
            setattr(owner, name, self._counted(part, getattr(owner, name)))

    def _counted(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def counted(*given: Any, **named: Any) -> Any:
            if self._counting:  # what a part does of another one is its own
                return call(*given, **named)
            began, self._counting = time.process_time(), True
            try:
                return call(*given, **named)
            finally:
                self.parts[part] += 1e3 * (time.process_time() - began)
                self._counting = False

        return counted

    def _check(self, jobs: Sequence[Job]) -> None:
        """Refuse to tell the time of random draws as that of the forest."""
        store = self.work.bench.store
        chosen = [one for one in jobs if one.goes_on or store.trial(*place_of(one)).origin == FOREST]
        if store.spec.search.sampler == FOREST and 2 * len(chosen) < len(jobs):
            raise RuntimeError(f"of the last {len(jobs)} jobs the forest chose {len(chosen)}")

    def _turn(self) -> Job:
        began, on_the_clock = time.process_time(), time.perf_counter()
        job = self.work.next_job()
        if job is None:
            raise RuntimeError("the space is used up")
        for step in job.rungs:
            if not self.work.on_score(job, _score(job.candidate, step)):
                break
        self.work.on_end(job, None)
        self.processor.append(1e3 * (time.process_time() - began))
        self.clock.append(1e3 * (time.perf_counter() - on_the_clock))
        return job


def _at_random(
    number: int, trials: Sequence[Trial], taken: Collection[str], paused: Sequence[Trial] = ()
) -> Trial | None:
    """Let the last one go on that pauses if its number is one in four; else let Optuna's sampler draw."""
    return next((one for one in reversed(paused) if one.number % 4 == 0), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 500 trials")
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random", "forest"])
    given = parser.parse_args()
    most = 500 if given.quick else given.most
    found = measured([one for one in _MARKS if one <= most], given.samplers)
    write("scale", _result(found), markdown(found))


def measured(marks: Sequence[int], samplers: Sequence[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the times of each sampler at each mark."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in samplers}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        filled = {name: Side(Storage(_url(at / f"like-{name}.db")).create(_spec(name)), at) for name in _FILLED}
        for mark in marks:
            for name in samplers:
                like = FOREST if name == FOREST else "random"
                filled[like].fill(mark)
                found[name][mark] = Side(_copied(at, name, like), at).timed()
                print(f"{name:10} {mark:6,} trials: {found[name][mark]['processor']:7.1f} ms a turn", flush=True)
    return found


def _copied(folder: Path, sampler: str, like: str) -> StudyStore:
    """Return a copy of a study that is filled, with another sampler."""
    path = folder / f"{sampler}.db"
    for old in folder.glob(f"{path.name}*"):
        old.unlink()
    for part in folder.glob(f"like-{like}.db*"):
        shutil.copyfile(part, folder / part.name.replace(f"like-{like}", sampler))
    store, spec = StudyStore(Storage(_url(path)), _STUDY), _spec(sampler)
    store.studies["search"].set_user_attr("paretune", {"spec": spec.to_json(), "sha256": spec.sha256})
    return store


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


def _spec(sampler: str) -> StudySpec:
    data = {"name": _STUDY, "model": "-", "task": "-", "synthetic": {}, "training": {"steps": STEPS}}
    budgets = {"trials": 1_000_000, "trainable_params": "5%", "memory": "1GiB"}
    return parse({**data, "budgets": budgets, "search": {"sampler": sampler}})


def _score(candidate: Candidate, step: int) -> Score:
    """Return a score: what is larger ends better, and the rungs say little of it. So some are trained to the end."""
    size = synthetic_params(candidate)
    early, late = (int(candidate.sha256[at : at + 8], 16) / 2**32 for at in (0, 8))
    values = {
        "accuracy": 0.3 + 0.1 * math.log10(size) + 0.1 * late if step == STEPS else 0.2 + 0.4 * early,
        "trainable_params": float(size),
        "peak_memory_bytes": 1.1 * (2**20 + 16 * size),
    }
    return Score(values, step, step / STEPS, "validation", 0)


def exponent(times: Mapping[int, float]) -> float | None:
    """Return how a time grows with the number of trials: as this power of it. None where too few were measured."""
    counted = {mark: one for mark, one in times.items() if mark >= _GROWING_FROM}
    if len(counted) < 2:
        return None
    return float(np.polyfit(np.log(list(counted)), np.log(np.maximum(list(counted.values()), 1e-3)), 1)[0])


def _result(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    goal = {"milliseconds": GOAL_MS, "trials": GOAL_TRIALS}
    by_name = {name: {str(mark): one for mark, one in marks.items()} for name, marks in found.items()}
    return {"milliseconds_per_turn": by_name, "goal": goal}


def markdown(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Return the section of the results."""
    marks = sorted({mark for by in found.values() for mark in by})
    times = {name: {mark: float(one["processor"]) for mark, one in by.items()} for name, by in found.items()}
    lines = ["## Scale: asking and telling", "", *_head(["sampler", *(f"{mark:,}" for mark in marks), "grows as"])]
    lines += [_line([name, *(f"{by[mark]:.1f}" for mark in marks), _power(by)]) for name, by in times.items()]
    lines += [
        "",
        f"Milliseconds of the processor for one turn in a study (draw, screen, write, rungs, tell) by its trials so "
        f"far, medians of {_TIMED}: of a new trial, or where the forest searches of one that pauses and goes on. Three "
        f"of four trials pause there. Grows as: from {_GROWING_FROM} trials on, as this power of their number.",
    ]
    default = SearchSpec().sampler
    if at_goal := times.get(default, {}).get(GOAL_TRIALS):
        verdict = "reached" if at_goal <= GOAL_MS else "not reached"
        lines.append(
            f"Goal for the default, {default}: at most {GOAL_MS:.0f} ms at {GOAL_TRIALS:,} trials: **{verdict}**."
        )
    waited = statistics.median(one["clock"] / one["processor"] for by in found.values() for one in by.values())
    if waited > _ALONE:
        lines.append(f"By the clock it took {waited:.1f} times as long: other work ran on the machine.")
    lines += ["", f"What bounds it: the parts at {marks[-1]:,} trials, and the power that each grows as.", ""]
    lines += _head(["sampler", *PARTS])
    for name, by in found.items():
        parts = [{mark: float(one["parts"][part]) for mark, one in by.items()} for part in PARTS]
        lines.append(_line([name, *(f"{one[marks[-1]]:.1f} ({_power(one)})" for one in parts)]))
    lines += [
        "",
        "The forest fits 64 trees to its last 800 trials, which is most of its proposal up to 2,000 trials and then "
        "grows no more; what grows is to tell what each of those that pause may come to, and may add to the front. TPE "
        "weighs all trials for each parameter that it draws. About half of what grows in the rest is the factor on "
        "predicted memory, a quantile over all trials.",
    ]
    return "\n".join(lines)


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _power(times: Mapping[int, float]) -> str:
    found = exponent(times)
    return "–" if found is None else f"n^{found:.2f}"


if __name__ == "__main__":
    main()
