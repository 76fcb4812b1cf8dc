"""Studies as they would be, made up: candidates and scores straight into a storage, nothing trained."""

from __future__ import annotations

import math
import random
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from optuna.samplers import RandomSampler

from evaluators.score import Cost, Score
from orchestrator.front import front_of_study
from orchestrator.home import Home
from orchestrator.spec import StudySpec, parse
from orchestrator.storage import Storage, StudyStore
from search_space.budgets import violations
from search_space.candidate import Candidate
from search_space.notation import parse as candidate_of

BACKBONE = 22_713_216
STEPS = 300
SIZES = {"lora": 4608, "vera": 900, "ia3": 2304, "bitfit": 9216, "ln_tuning": 4608, "serial_adapter": 3100}
ARCHITECTURES = [
    *(f"lora(r={r})@{where}" for r in (2, 4, 8, 16) for where in ("attention.query,attention.value", "linear[top:3]")),
    *("ia3", "bitfit", "ln_tuning", "serial_adapter(r=16)", "serial_adapter(r=64)", "vera(r=64)"),
    *("lora(r=4) + bitfit", "lora(r=8)@attention.query[top:4] + ln_tuning", "lora(r=16) + serial_adapter(r=16)"),
]


@cache
def _blank() -> Path:
    """Return a database with Optuna's tables, which take long to make."""
    path = Path(tempfile.mkdtemp()) / "paretune.db"
    Storage(f"sqlite:///{path}")
    return path


def empty_home(root: Path) -> Home:
    """Return a home with an empty storage."""
    home = Home(root).create()
    with closing(sqlite3.connect(_blank())) as blank, closing(sqlite3.connect(home.root / "paretune.db")) as own:
        blank.backup(own)
    return home


def spec_of(name: str, **more: Any) -> StudySpec:
    """Return a small spec."""
    budgets = {"trainable_params": "1%", "memory": "2GiB", "trials": 24}
    return parse({"name": name, "model": "builtin:minilm-l6", "task": "builtin:trec", "budgets": budgets, **more})


def candidate(text: str, rate: float = 1e-3) -> Candidate:
    """Read a candidate; each part gets the learning rate."""
    one = candidate_of(text)
    return candidate_of(f"{text} | lr=" + "/".join([f"{rate:.4g}"] * len(one.parts)))


def size_of(one: Candidate) -> int:
    """Make up how many parameters a candidate trains."""
    total = 0
    for part in one.parts:
        knobs = dict(part.knobs)
        scale = int(knobs.get("r", 1))  # type: ignore[arg-type]
        total += SIZES.get(part.method, 1000) * (scale if part.method in ("lora", "serial_adapter") else 1)
    return total


def score_of(one: Candidate, step: int, rng: random.Random, split: Any = "validation", seed: int = 0) -> Score:
    """Make up a score: more parameters and more steps help, less and less."""
    params = size_of(one)
    quality = 0.60 + 0.07 * math.log10(params / 1000) + 0.04 * math.log2(step / STEPS * 2)
    accuracy = max(0.2, min(0.97, quality + rng.gauss(0, 0.012)))
    ece = abs(rng.gauss(0.06, 0.02))
    values = {
        "accuracy": accuracy,
        "nll": 1.5 * (1 - accuracy) + 0.2,
        "calibrated_nll": 1.4 * (1 - accuracy) + 0.18,
        "ece": ece,
        "calibrated_ece": ece / 3 + 0.008,
        "ece_floor": 0.011,
        "ece_p_value": 0.003,
        "calibrated_ece_floor": 0.012,
        "calibrated_ece_p_value": 0.31,
        "trainable_params": float(params),
        "head_params": 2310.0,
        "checkpoint_bytes": 4.0 * (params + 2310),
        "peak_memory_bytes": 2.1e8 + 40.0 * params,
        "train_step_ms": 38 + params / 9e4,
        "latency_ms": 3.1 + params / 3e5 + rng.random() / 5,
    }
    return Score(values, step, step / STEPS, split, seed)


class _OneCandidate:
    """A space that holds one candidate, for entering it as if a sampler had drawn it."""

    def __init__(self, one: Candidate) -> None:
        self.one = one

    def encode(self, _one: Candidate) -> dict[str, Any]:
        return {}

    def draw(self, _chooser: Any) -> Candidate:
        return self.one


def begin(storage: Storage, spec: StudySpec) -> StudyStore:
    """Create a study as its driver leaves it when it starts."""
    store = storage.create(spec)
    store.note("backbone", {"parameters": BACKBONE})
    worst = {"accuracy": 1 / 6, "trainable_params": 0.01 * BACKBONE, "calibrated_ece": 5 / 6, "latency_ms": 1000.0}
    store.note("reference_point", {one.metric: worst[one.metric] for one in spec.objectives})
    store.note("status", "running")
    return store


def start_trial(store: StudyStore, one: Candidate) -> int:
    """Enter a trial of the search as running."""
    number, _ = store.ask(_OneCandidate(one), RandomSampler(seed=0), one)  # type: ignore[arg-type]
    cost = Cost(size_of(one), 2310, int(2.2e8 + 40 * size_of(one)))
    excess = violations(store.spec.budgets.limits(BACKBONE), cost.values)
    store.start(number, one, cost, 0, excess)
    if any(value > 0 for value in excess.values()):
        store.finish("search", number, "infeasible", message="trainable_params over its limit")
    return number


def end_trial(store: StudyStore, number: int, one: Candidate, rng: random.Random, rungs: int = 3) -> None:
    """Let a running trial pass rungs, and settle it: complete when they were all, else stopped early."""
    for step in (33, 100, STEPS)[:rungs]:
        store.report("search", number, score_of(one, step, rng))
    store.finish("search", number, "complete" if rungs == 3 else "partial")


def pause_trial(store: StudyStore, one: Candidate, rungs: int = 1) -> int:
    """Add a trial that was trained to a rung and waits there."""
    number = start_trial(store, one)
    rng = random.Random(number)
    for step in (33, 100)[:rungs]:
        store.report("search", number, score_of(one, step, rng))
    set_paused(store, number, True)
    return number


def set_paused(store: StudyStore, number: int, paused: bool) -> None:
    """Let a trial wait where it is, or go on."""
    store.storage.optuna.set_trial_user_attr(store._id("search", number), "paused", paused)


def fill(store: StudyStore, count: int, seed: int = 0) -> None:
    """Add trials of all kinds to a study."""
    rng = random.Random(seed)
    for index in range(count):
        one = candidate(ARCHITECTURES[index % len(ARCHITECTURES)], 10 ** rng.uniform(-3.5, -2))
        number = start_trial(store, one)
        if store.trial("search", number).state != "running":
            continue
        if index % 11 == 10:
            store.finish("search", number, "failed", "out_of_memory", "peak of 3.1 GiB at step 12")
        else:
            end_trial(store, number, one, rng, 3 if index % 3 != 1 else rng.choice((1, 2)))


def add_references(store: StudyStore, seed: int = 1) -> None:
    """Add the frozen backbone and full fine-tuning."""
    rng = random.Random(seed)
    for name, accuracy, params in (("head", 0.61, 1.0), ("full", 0.905, float(BACKBONE))):
        one = candidate_of(name)
        number = store.add("references", one, Cost(int(params), 2310), 0, name)
        score = score_of(candidate("ia3"), STEPS, rng)
        values = {**score.values, "accuracy": accuracy, "trainable_params": params}
        store.report("references", number, Score(values, STEPS, 1.0, "validation", 0))
        store.finish("references", number, "complete")


def add_finalists(store: StudyStore, numbers: list[int], seeds: int = 3) -> None:
    """Train trials again, and read the test split."""
    rng = random.Random(2)
    for number in numbers:
        trial = store.trial("search", number)
        for seed in range(1, seeds + 1):
            again = store.add("finalists", trial.candidate, trial.cost, seed, str(number))
            store.report("finalists", again, score_of(trial.candidate, STEPS, rng, seed=seed))
            store.report("finalists", again, score_of(trial.candidate, STEPS, rng, "test", seed))
            store.finish("finalists", again, "complete")


def complete(storage: Storage, name: str, count: int = 24, **more: Any) -> StudyStore:
    """Add a whole study that has come to its end."""
    store = begin(storage, spec_of(name, **more))
    fill(store, count)
    add_references(store)
    front = front_of_study(store)
    add_finalists(store, [one.number for one in front.members][-4:])
    store.note("status", "complete")
    return store


def add_settled(store: StudyStore, one: Candidate) -> int:
    """Add a complete trial."""
    number = start_trial(store, one)
    end_trial(store, number, one, random.Random(number))
    return number
