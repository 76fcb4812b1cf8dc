"""How asking and telling grow with the number of trials that a study holds.

    python -m benchmarks.scale [--quick] [--most 10000] [--samplers tpe random forest]

A study in SQLite with made-up scores and no training, run by what runs every study (`SearchWork`): between two marks
candidates are drawn, screened, written, looked at on their rungs, stopped or not, and told. What is timed is one trial
from its ask to its end, those rejected before it included: the median of those up to each mark. Samplers take turns at
each mark.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import write
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Score
from evaluators.synthetic import SyntheticCoster, synthetic_params
from orchestrator.preparation import Prepared
from orchestrator.proposals import FOREST
from orchestrator.rungs import rungs_of
from orchestrator.simulation import Unwatched
from orchestrator.spec import SearchSpec, StudySpec, parse
from orchestrator.storage import Storage
from orchestrator.work import Bench, SearchWork, Stop
from search_space.candidate import Candidate
from search_space.space import bind

GOAL_MS, GOAL_TRIALS = 100.0, 2000
STEPS = 90
_MARKS = (100, 200, 500, 1000, 2000, 5000, 10_000)
_AROUND = 15


class Side:
    """One sampler's study, its jobs ended as soon as they begin."""

    def __init__(self, sampler: str, folder: str) -> None:
        spec = _spec(sampler)
        store = Storage(f"sqlite:///{Path(folder) / sampler}.db").create(spec)
        coster = SyntheticCoster()
        space, limits = bind(spec.space, coster.anatomy), spec.budgets.limits(coster.parameters)
        evaluator = EvaluatorSpec(spec.model, spec.training, spec.calibration, "", STEPS)
        prepared = Prepared(space, coster, limits, evaluator, ("a", "b"))
        bench = Bench(store, prepared, Path(folder), Unwatched(), Stop(store, None, 0.0), lambda _trial: None)
        self.work = SearchWork(bench, [], rungs_of(spec.search.early_stopping, spec.objectives, STEPS))
        self.trials = 0

    def grow(self, trials: int) -> list[float]:
        """Run trials until there are so many. Returns the milliseconds of the last ones."""
        spent = []
        while self.trials < trials:
            spent.append(self._trial())
        self._check()
        return spent[-_AROUND:]

    def _check(self) -> None:
        """Refuse to tell the time of random draws as that of the forest."""
        store = self.work.bench.store
        origins = [one.origin for one in store.trials()[-_AROUND:]]
        if store.spec.search.sampler == FOREST and 2 * origins.count(FOREST) < len(origins):
            raise RuntimeError(f"of the last {len(origins)} trials the forest proposed {origins.count(FOREST)}")

    def _trial(self) -> float:
        began = time.perf_counter()
        job = self.work.next_job()
        if job is None:
            raise RuntimeError("the space is used up")
        for step in job.rungs:
            if not self.work.on_score(job, _score(job.candidate, step)):
                break
        self.work.on_end(job, None)
        self.trials += 1
        return 1e3 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 500 trials")
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random", "forest"])
    given = parser.parse_args()
    most = 500 if given.quick else given.most
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Side(name, folder) for name in given.samplers}
        times: dict[str, dict[int, list[float]]] = {name: {} for name in sides}
        for mark in (one for one in _MARKS if one <= most):
            for name, side in sides.items():
                times[name][mark] = side.grow(mark)
                print(f"{name:10} {mark:6,} trials: {statistics.median(times[name][mark]):7.1f} ms a trial", flush=True)
    write("scale", _result(times), _markdown(times))


def _spec(sampler: str) -> StudySpec:
    data = {"name": f"scale-{sampler}", "model": "-", "task": "-", "synthetic": {}, "training": {"steps": STEPS}}
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


def _result(times: dict[str, dict[int, list[float]]]) -> dict[str, Any]:
    medians = {name: {str(mark): statistics.median(one) for mark, one in by.items()} for name, by in times.items()}
    return {"milliseconds_per_trial": medians, "goal": {"milliseconds": GOAL_MS, "trials": GOAL_TRIALS}}


def _markdown(times: dict[str, dict[int, list[float]]]) -> str:
    marks = sorted({mark for by in times.values() for mark in by})
    lines = ["## Scale: asking and telling", "", "| sampler | " + " | ".join(f"{mark:,}" for mark in marks) + " |"]
    lines.append("|---" * (len(marks) + 1) + "|")
    for name, by in times.items():
        lines.append(f"| {name} | " + " | ".join(f"{statistics.median(by[mark]):.1f}" for mark in marks) + " |")
    lines += [
        "",
        "Milliseconds of one trial in a study (draw, screen, write, rungs, tell) by its trials so far, medians.",
    ]
    default = SearchSpec().sampler
    at_goal = times.get(default, {}).get(GOAL_TRIALS)
    if at_goal:
        verdict = "reached" if statistics.median(at_goal) <= GOAL_MS else "not reached"
        lines.append(
            f"Goal for the default, {default}: at most {GOAL_MS:.0f} ms at {GOAL_TRIALS:,} trials: **{verdict}**."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
