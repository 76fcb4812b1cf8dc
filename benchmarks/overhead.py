"""Orchestration cost of a trial: everything but the evaluator, beside stock Ray Tune with OptunaSearch.

    python -m benchmarks.overhead [--quick] [--trials 200] [--rounds 3]

Evaluators answer at once. Paretune runs as shipped: SQLite storage, MLflow recorder on SQLite, Ray Tune actors. Ray is
started once and shared; sides take turns within a round. The cost of a trial is taken from the end of the first
quarter of the trials to the end of the last one, and of everything that records them, so that what happens once (Ray's
and the first actors' start, imports) counts for nobody. CPU time is that of the driving process, threads included.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.report import Ratio, ratio_interval, write
from evaluators.evaluation import EvaluatorSpec
from evaluators.synthetic import SyntheticCoster, SyntheticEvaluator
from orchestrator import study as study_module
from orchestrator.home import Home
from orchestrator.recorder import Recorder
from orchestrator.runner import cluster
from orchestrator.samplers import build_sampler
from orchestrator.spec import StudySpec, parse
from orchestrator.storage import Storage
from orchestrator.trial import Phase, Trial
from search_space.space import Space, bind

GOAL_MS, GOAL_RATIO, AT_ONCE = 100.0, 5.0, 2
HEADLINE = "Paretune, TPE, early stopping"
DEFAULT, TUNED = "Ray Tune, function, ASHA, MLflow", "Ray Tune, reused actors, ASHA, MLflow"
_TIMED: dict[str, tuple[str, ...]] = {
    "ask": ("orchestrator.storage.StudyStore.ask",),
    "cost": ("evaluators.synthetic.SyntheticCoster.cost",),
    "storage writes": tuple(
        f"orchestrator.storage.StudyStore.{name}" for name in ("start", "report", "constrain", "finish")
    ),
    "early stopping": ("orchestrator.rungs.Rungs.goes_on",),
    "recorder (its own thread)": ("orchestrator.recorder.Recorder.record_trial",),
}


@dataclass
class Meter:
    """When trials ended, by two clocks.

    Attributes:
        marks: Seconds of wall clock and of this process's CPU at the end of each trial.
    """

    marks: list[tuple[float, float]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def mark(self) -> None:
        """Note that a trial ended."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def end(self, *_args: Any) -> None:
        """Note that everything was done."""
        self.mark()

    def result(self) -> dict[str, float]:
        """Return milliseconds for each trial after the first quarter; the last mark is the end of all."""
        trials = len(self.marks) - 1
        first = max(1, trials // 4)
        spent = [last - start for start, last in zip(self.marks[first - 1], self.marks[-1], strict=True)]
        wall, cpu = (1000 * one / (trials - first) for one in spent)
        whole = 1000 * (self.marks[-1][0] - self.began) / trials
        return {"wall_ms": wall, "cpu_ms": cpu, "wall_ms_with_start": whole, "load": os.getloadavg()[0]}


@dataclass(frozen=True)
class Ours:
    """One way to run a study."""

    name: str
    sampler: str
    rungs: int
    recorded: bool = True


OURS = (
    Ours(HEADLINE, "tpe", 3),
    Ours("Paretune, TPE, trained to the end", "tpe", 1),
    Ours("Paretune, random, early stopping", "random", 3),
    Ours("Paretune, random, trained to the end", "random", 1),
    Ours("Paretune, TPE, early stopping, no recorder", "tpe", 3, recorded=False),
)


class _Ends:
    """A watcher that marks the ends of trials."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def phase(self, name: Phase, planned: int) -> None:
        pass

    def changed(self, trial: Trial) -> None:
        if trial.is_settled and trial.state != "infeasible":
            self._meter.mark()


def spec_of(ours: Ours, trials: int) -> StudySpec:
    """Return a study of an evaluator that answers at once."""
    search = {"sampler": ours.sampler, "references": [], "finalists": {"count": 0}}
    return parse(
        {
            "name": "overhead",
            "model": {"name": "builtin:minilm-l6"},
            "task": {"dataset": "builtin:trec"},
            "synthetic": {},
            "budgets": {"trials": trials},
            "search": search | {"early_stopping": {"rungs": ours.rungs}},
            "resources": {"concurrency": AT_ONCE},
        }
    )


def run_ours(ours: Ours, trials: int) -> tuple[dict[str, float], dict[str, float]]:
    """Run a study on the Ray that is there. Returns its cost, and where the time of a trial went, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="paretune-overhead-") as folder, ExitStack() as patches:
        home = Home(Path(folder)).create()
        store = Storage(f"sqlite:///{folder}/paretune.db").create(spec_of(ours, trials))
        meter = Meter()
        patches.enter_context(mock.patch.object(study_module, "cluster", _shared))
        patches.enter_context(mock.patch.object(study_module, "_write_front", meter.end))
        if not ours.recorded:
            patches.enter_context(mock.patch.object(Recorder, "record_trial"))
        spent = patches.enter_context(_timed())
        study_module.run_study(store, home, _Ends(meter))
    parts = {name: 1000 * spent[name] / trials for name in _TIMED}
    return meter.result(), parts


def run_stock(stock: Any, trials: int) -> dict[str, float]:
    """Run trials with Ray Tune alone. Returns their cost."""
    from benchmarks import stock_ray

    space, _, evaluator = _subject(spec_of(OURS[0], trials))
    meter = Meter()
    stock_ray.run(stock, space, evaluator, trials, AT_ONCE, meter.mark)
    meter.mark()
    return meter.result()


def run(trials: int, stock_trials: dict[bool, int], rounds: int, quick: bool) -> dict[str, Any]:
    """Measure all sides in turns.

    Args:
        trials: Trials of a study.
        stock_trials: Trials of stock Ray Tune: with reused actors (True) and without (False).
        rounds: How often each side is measured.
        quick: Whether to leave sides out.
    """
    costs: dict[str, list[dict[str, float]]] = defaultdict(list)
    parts: list[dict[str, float]] = []
    counts: dict[str, int] = {}
    began = time.perf_counter()
    spec = spec_of(OURS[0], 1)
    with cluster(spec.resources):
        ray_start = time.perf_counter() - began
        for number in range(rounds):
            for ours in OURS[:1] if quick else OURS:
                cost, where = run_ours(ours, trials)
                _say(number, ours.name, cost)
                costs[ours.name].append(cost)
                counts[ours.name] = trials
                if ours.name == HEADLINE:
                    parts.append(where)
            for stock in _stock_sides(quick):
                cost = run_stock(stock, stock_trials[stock.actors])
                _say(number, stock.name, cost)
                costs[stock.name].append(cost)
                counts[stock.name] = stock_trials[stock.actors]
    return _result(dict(costs), counts, parts, ray_start, rounds) | {
        "sampling": sampling((100,) if quick else (500, 2000))
    }


def sampling(sizes: tuple[int, ...], sampler: str = "tpe", repeats: int = 12) -> list[dict[str, float]]:
    """Return the median milliseconds to ask for a trial and to tell its result, storage included, by study size."""
    spec = spec_of(Ours("", sampler, 3), max(sizes))
    space, coster, subject = _subject(spec)
    evaluator = SyntheticEvaluator(subject)
    rows, times = [], []
    with tempfile.TemporaryDirectory(prefix="paretune-sampling-") as folder:
        store = Storage(f"sqlite:///{folder}/paretune.db").create(spec)
        for number in range(max(sizes)):
            near = any(size - repeats <= number < size for size in sizes)
            began = time.perf_counter()
            drawn = build_sampler(spec, number) if near else build_sampler(_random(spec), number)
            _, candidate = store.ask(space, drawn)
            store.start(number, candidate, coster.cost(candidate), 0, {})
            asked = time.perf_counter()
            full = number % 4 == 0
            store.report("search", number, evaluator.start(candidate, 0).advance(1000 if full else 111))
            store.finish("search", number, "complete" if full else "partial")
            times.append((asked - began, time.perf_counter() - asked))
            if number + 1 in sizes:
                ask, tell = (1000 * statistics.median(one) for one in zip(*times[-repeats:], strict=True))
                rows.append({"trials": number + 1, "ask_ms": ask, "tell_ms": tell})
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    lines = [
        "## Overhead: what does orchestration cost?",
        "",
        "Milliseconds a trial with an evaluator that answers at once, "
        f"{AT_ONCE} trials at a time, median of {result['rounds']} interleaved rounds (lowest and highest); Ray's and "
        "the first actors' start count for nobody. CPU: the driving process. Ratio: wall clock over that of "
        f"*{HEADLINE}*, with a 95 % bootstrap interval.",
        "",
        "| side | trials | wall ms | CPU ms | wall ms with start | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in result["sides"]:
        wall, ratio = one["wall_ms"], one["ratio"]
        spread = f"{wall['median']:.0f} ({wall['low']:.0f} to {wall['high']:.0f})"
        cells = [one["name"], one["trials"], spread, f"{one['cpu_ms']['median']:.0f}"]
        cells += [f"{one['wall_ms_with_start']['median']:.0f}", str(Ratio(**ratio))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Where the time of a trial goes, wall-clock ms of *" + HEADLINE + "*:",
        "",
        "| part | ms |",
        "|---|---:|",
    ]
    lines += [f"| {name} | {value:.1f} |" for name, value in result["parts_ms"].items()]
    lines += ["", "Drawing with TPE and writing the outcome, storage included:", ""]
    lines += ["| trials in the study | ask ms | tell ms |", "|---:|---:|---:|"]
    lines += [f"| {one['trials']:,} | {one['ask_ms']:.0f} | {one['tell_ms']:.0f} |" for one in result["sampling"]]
    goals = {name: "yes" if reached else "NO" for name, reached in result["reached"].items()}
    lines += [
        "",
        f"Goals: at most {GOAL_MS:g} ms a trial: {goals['cost']}; at least {GOAL_RATIO:g} times below stock, used as "
        f"documented (*{DEFAULT}*): {goals['ratio_to_default']}; the same below stock tuned by hand (*{TUNED}*): "
        f"{goals['ratio_to_tuned']}. Ray itself started in {result['ray_start_s']:.1f} s. The machine "
        f"had {os.cpu_count()} cores and a load of {result['load']:.1f} (median). Stock Ray Tune keeps its "
        "Optuna study in memory only, and records a stopped trial as complete; without MLflow nothing of it is kept "
        "but its own pickles and logs.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small round, within a minute")
    parser.add_argument("--trials", type=int, default=200, help="trials of a study")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured")
    given = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    if given.quick:
        result = run(30, {True: 6, False: 3}, 1, quick=True)
    else:
        result = run(given.trials, {True: 40, False: 8}, given.rounds, quick=False)
    text = markdown(result)
    write("overhead", result, text)
    print(text)


def _subject(spec: StudySpec) -> tuple[Space, SyntheticCoster, EvaluatorSpec]:
    """Return the space of a study, its costs, and what its actors build."""
    coster = SyntheticCoster()
    evaluator = EvaluatorSpec(spec.model, spec.training, spec.calibration, "", 1000, 1.0, spec.synthetic)
    return bind(spec.space, coster.anatomy), coster, evaluator


def _random(spec: StudySpec) -> StudySpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": "random"})})


def _stock_sides(quick: bool) -> list[Any]:
    from benchmarks.stock_ray import Stock

    sides = [
        Stock(TUNED, actors=True, mlflow=True),
        Stock("Ray Tune, reused actors, ASHA", actors=True, mlflow=False),
        Stock("Ray Tune, reused actors, MLflow", actors=True, mlflow=True, asha=False),
        Stock(DEFAULT, actors=False, mlflow=True),
        Stock("Ray Tune, function, ASHA", actors=False, mlflow=False),
    ]
    return [sides[0], sides[3]] if quick else sides


def _result(
    costs: dict[str, list[dict[str, float]]],
    counts: dict[str, int],
    parts: list[dict[str, float]],
    ray_start: float,
    rounds: int,
) -> dict[str, Any]:
    walls = {name: [one["wall_ms"] for one in found] for name, found in costs.items()}
    ratios = {name: ratio_interval(found, walls[HEADLINE]) for name, found in walls.items()}
    sides = [
        {"name": name, "trials": counts[name], "ratio": ratios[name].to_json()}
        | {clock: _summary([one[clock] for one in found]) for clock in found[0]}
        for name, found in costs.items()
    ]
    where = {name: statistics.median(one[name] for one in parts) for name in _TIMED}
    in_turn = sum(value for name, value in where.items() if "thread" not in name)
    where["Ray Tune's loop, its actors and their start"] = (
        statistics.median(one["wall_ms_with_start"] for one in costs[HEADLINE]) - in_turn
    )
    return {
        "sides": sides,
        "parts_ms": where,
        "ray_start_s": ray_start,
        "rounds": rounds,
        "load": statistics.median(one["load"] for found in costs.values() for one in found),
        "goals": {"cost_ms": GOAL_MS, "ratio": GOAL_RATIO},
        "reached": {
            "cost": statistics.median(walls[HEADLINE]) <= GOAL_MS,
            "ratio_to_default": ratios[DEFAULT].value >= GOAL_RATIO,
            "ratio_to_tuned": ratios[TUNED].value >= GOAL_RATIO,
        },
    }


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "all": values}


def _say(number: int, name: str, cost: dict[str, float]) -> None:
    print(f"round {number + 1}: {name}: {cost['wall_ms']:.0f} ms wall, {cost['cpu_ms']:.0f} ms CPU", flush=True)


@contextmanager
def _shared(_resources: Any) -> Iterator[int]:
    """Stand in for the runner's own cluster: Ray is there already."""
    yield AT_ONCE


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Add up the seconds that methods take, by the name of their part."""
    spent: dict[str, float] = defaultdict(float)
    lock = threading.Lock()

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                with lock:
                    spent[name] += time.perf_counter() - began

        return wrapper

    with ExitStack() as patches:
        for name, paths in _TIMED.items():
            for path in paths:
                module, owner, method = path.rsplit(".", 2)
                cls = getattr(importlib.import_module(module), owner)
                patches.enter_context(mock.patch.object(cls, method, timed(name, getattr(cls, method))))
        yield spent


if __name__ == "__main__":
    main()
