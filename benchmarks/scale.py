"""How asking and telling grow with the number of trials that a study holds.

    python -m benchmarks.scale [--quick] [--most 10000] [--samplers tpe random forest]

A study in SQLite with made-up scores and no training: between two marks its samplers draw, its trials are written,
screened and told. What is timed is one trial's ask, start, report and tell, the median of those around each mark.
Samplers take turns at each mark.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import write
from evaluators.evaluation import EvaluatorSpec
from evaluators.score import Cost, Score
from evaluators.synthetic import SyntheticCoster, synthetic_params
from orchestrator.preparation import Prepared
from orchestrator.proposals import Proposals
from orchestrator.samplers import build_sampler
from orchestrator.spec import SearchSpec, StudySpec, parse
from orchestrator.storage import Storage, StudyStore, Trial
from search_space.candidate import Candidate
from search_space.space import Space, bind

GOAL_MS, GOAL_TRIALS = 100.0, 2000
STEPS = 90
_MARKS = (100, 200, 500, 1000, 2000, 5000, 10_000)
_AROUND = 15


class Side:
    """One sampler's study."""

    def __init__(self, sampler: str, folder: str) -> None:
        self.spec = _spec(sampler)
        self.store: StudyStore = Storage(f"sqlite:///{Path(folder) / sampler}.db").create(self.spec)
        self.space: Space = bind(self.spec.space, SyntheticCoster().anatomy)
        steps = EvaluatorSpec(self.spec.model, self.spec.training, self.spec.calibration, "", STEPS)
        self.proposals = Proposals(self.spec, Prepared(self.space, SyntheticCoster(), {}, steps, ("a", "b")))
        self.tried: dict[str, Trial] = {}
        self.asked = 0

    def grow(self, trials: int) -> list[float]:
        """Run trials until there are so many. Returns the milliseconds of the last ones."""
        spent = []
        while self.asked < trials:
            spent.append(self._trial())
        return spent[-_AROUND:]

    def _trial(self) -> float:
        began = time.perf_counter()
        proposed = self.proposals.propose(self.asked, list(self.tried.values()), self.tried)
        given = proposed.candidate if proposed else None
        number, candidate = self.store.ask(self.space, build_sampler(self.spec.search, self.asked), given)
        score = _score(candidate)
        self.store.start(number, candidate, Cost(int(score["trainable_params"]), 100), 0, {})
        self.store.report("search", number, score)
        self.tried[candidate.sha256] = self.store.finish("search", number, "complete")
        self.asked += 1
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
    return parse({**data, "search": {"sampler": sampler}})


def _score(candidate: Candidate) -> Score:
    size = synthetic_params(candidate)
    share = int(candidate.sha256[:8], 16) / 2**32
    return Score({"accuracy": 0.5 + 0.4 * share, "trainable_params": float(size)}, STEPS, 1.0, "validation", 0)


def _result(times: dict[str, dict[int, list[float]]]) -> dict[str, Any]:
    medians = {name: {str(mark): statistics.median(one) for mark, one in by.items()} for name, by in times.items()}
    return {"milliseconds_per_trial": medians, "goal": {"milliseconds": GOAL_MS, "trials": GOAL_TRIALS}}


def _markdown(times: dict[str, dict[int, list[float]]]) -> str:
    marks = sorted({mark for by in times.values() for mark in by})
    lines = ["## Scale: asking and telling", "", "| sampler | " + " | ".join(f"{mark:,}" for mark in marks) + " |"]
    lines.append("|---" * (len(marks) + 1) + "|")
    for name, by in times.items():
        lines.append(f"| {name} | " + " | ".join(f"{statistics.median(by[mark]):.1f}" for mark in marks) + " |")
    lines += ["", "Milliseconds of one trial (ask, write, report, tell) by the number of trials in the study, medians."]
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
