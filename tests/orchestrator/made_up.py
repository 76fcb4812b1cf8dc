"""Studies that were never trained: specs, candidates and scores that are made up."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta

from evaluators.score import Cost, Score
from orchestrator import spec as study_spec
from orchestrator.spec import StudySpec
from orchestrator.storage import StudyStore
from orchestrator.trial import Trial
from search_space.candidate import Candidate
from search_space.notation import parse

CLASSES = 6
BACKBONE = 22_713_216
HEAD = 2_310
STARTED = datetime(2026, 1, 5, 9, 0, 0)
NOTATIONS = {
    "lora": "lora(r={size})@attention.query,attention.value[{layers}] | lr={rate}",
    "serial_adapter": "serial_adapter@mlp[{layers}] | lr={rate}",
    "ia3": "ia3 | lr={rate}",
    "bitfit": "bitfit | lr={rate}",
    "ln_tuning": "ln_tuning | lr={rate}",
    "vera": "vera | lr={rate}",
    "prefix_tuning": "prefix_tuning | lr={rate}",
    "lora + bitfit": "lora(r={size})@attention.query,attention.value[{layers}] + bitfit | lr={rate}/0.001",
    "lora + prefix_tuning": "lora(r={size})@attention[{layers}] + prefix_tuning | lr={rate}/0.01",
}


def make_spec(
    name: str = "demo", objectives: tuple[str, ...] = ("accuracy", "trainable_params"), **sections
) -> StudySpec:
    """A spec with the natural direction of each objective."""
    from evaluators.score import METRICS

    data = {
        "name": name,
        "model": "builtin:minilm-l6",
        "task": "builtin:trec",
        "objectives": [{METRICS[one].direction: one} for one in objectives],
    }
    return study_spec.parse(data | sections)


def make_score(values: dict[str, float], step: int = 90, full: int = 90, split="validation", seed: int = 0) -> Score:
    return Score(values, step, step / full, split, seed)


def make_trial(number: int, values: dict[str, float] | None = None, **fields) -> Trial:
    """A complete search trial, unless the fields say otherwise."""
    known = {
        "phase": "search",
        "number": number,
        "candidate": parse(f"lora(r={1 + number}) | lr=0.002"),
        "seed": 0,
        "cost": None,
        "scores": (make_score(values),) if values else (),
        "test": None,
        "state": "complete",
        "cause": None,
        "message": "",
        "origin": "",
        "started": STARTED + timedelta(seconds=10 * number),
        "finished": STARTED + timedelta(seconds=10 * number + 8),
    }
    return Trial(**(known | fields))


def make_finalist(
    number: int, origin: int, values: dict[str, float], test: dict[str, float] | None = None, **fields
) -> Trial:
    seed = 100 + number
    scored = make_score(test, split="test", seed=seed) if test else None
    return make_trial(number, values, phase="finalists", origin=str(origin), seed=seed, test=scored, **fields)


def enter(store: StudyStore, trial: Trial) -> int:
    """Bring a trial that is made up into the storage."""
    number = store.add(trial.phase, trial.candidate, trial.cost, trial.seed, trial.origin)
    for score in (*trial.scores, *([trial.test] if trial.test else [])):
        store.report(trial.phase, number, score)
    if trial.state == "paused":
        store.storage.optuna.set_trial_user_attr(store._id(trial.phase, number), "paused", True)
    elif trial.state != "running":
        store.finish(trial.phase, number, trial.state, trial.cause, trial.message)
    return number


def plausible(seed: int = 0, count: int = 36) -> tuple[list[Trial], list[Trial], list[Trial]]:
    """Search trials, references and finalists as a study of TREC-6 on a small encoder might give them."""
    generator = random.Random(seed)
    trials = [_plausible_trial(number, generator) for number in range(count)]
    references = [
        _reference(0, "head", 0, 0.735, generator),
        _reference(1, "full", BACKBONE, 0.934, generator),
    ]
    best = sorted((one for one in trials if one.state == "complete"), key=lambda one: -one.scores[-1]["accuracy"])
    finalists = [
        _again(3 * position + seed, one, generator) for position, one in enumerate(best[:4]) for seed in range(3)
    ]
    return trials, references, finalists


def _candidate(generator: random.Random) -> tuple[Candidate, int]:
    method = generator.choice(list(NOTATIONS))
    size, layers = generator.choice((1, 2, 4, 8)), generator.choice((1, 2, 3, 6))
    place = "all" if layers == 6 else f"top:{layers}"
    parameters = {
        "lora": 768 * 2 * size * layers, "serial_adapter": 50_000 * layers, "ia3": 13_824, "bitfit": 24_192,
        "ln_tuning": 9_984, "vera": 1_230 * layers, "prefix_tuning": 46_080,
        "lora + bitfit": 24_192 + 1536 * size * layers, "lora + prefix_tuning": 46_080 + 3072 * size * layers,
    }  # fmt: skip
    return parse(
        NOTATIONS[method].format(size=size, layers=place, rate=generator.randint(500, 5000) / 1e6)
    ), parameters[method]


def metrics(parameters: int, quality: float, generator: random.Random) -> dict[str, float]:
    """Metrics that hang together: a candidate of a quality between 0 and 1."""
    accuracy = round(500 * quality) / 500
    nll = 1.6 * (1 - quality) + 0.08
    return {
        "accuracy": accuracy, "macro_f1": accuracy - 0.02, "nll": nll * 1.1, "calibrated_nll": nll,
        "ece": 0.05 + 0.02 * generator.random(), "calibrated_ece": 0.02 + 0.01 * generator.random(),
        "trainable_params": float(parameters), "head_params": float(HEAD),
        "checkpoint_bytes": 4.0 * (parameters + HEAD), "peak_memory_bytes": 2.0e8 + 30 * parameters,
        "train_step_ms": 40 + 10 * generator.random(), "latency_ms": 3 + generator.random(),
    }  # fmt: skip


def _quality(parameters: int, generator: random.Random) -> float:
    ceiling = 0.74 + 0.17 / (1 + math.exp(-(math.log10(max(parameters, 1)) - 4.0) * 2.2))
    return min(0.95, ceiling - abs(generator.gauss(0, 0.03)))


def _plausible_trial(number: int, generator: random.Random) -> Trial:
    candidate, parameters = _candidate(generator)
    cost = Cost(parameters, HEAD, 200_000_000 + 30 * parameters)
    quality = _quality(parameters, generator)
    scores = [
        make_score(metrics(parameters, quality - gap, generator), step)
        for step, gap in ((10, 0.2), (30, 0.08), (90, 0.0))
    ]
    kind = generator.random()
    if parameters > 200_000:
        return make_trial(
            number, None, candidate=candidate, cost=cost, state="infeasible", message="over trainable_params"
        )
    if kind < 0.06:
        return make_trial(
            number, None, candidate=candidate, cost=cost, state="failed", cause="diverged", message="loss is NaN"
        )
    if kind < 0.4 and number > 4:
        return make_trial(number, None, candidate=candidate, cost=cost, scores=tuple(scores[:-1]), state="partial")
    return make_trial(number, None, candidate=candidate, cost=cost, scores=tuple(scores))


def _reference(number: int, name: str, parameters: int, quality: float, generator: random.Random) -> Trial:
    return make_trial(
        number,
        metrics(parameters, quality, generator),
        phase="references",
        candidate=parse(f"{name} | lr=0.001"),
        cost=Cost(parameters, HEAD),
        origin=name,
    )


def _again(number: int, trial: Trial, generator: random.Random) -> Trial:
    parameters = int(trial.scores[-1]["trainable_params"])
    quality = trial.scores[-1]["accuracy"] - 0.008
    values, test = (metrics(parameters, quality + generator.gauss(0, 0.005), generator) for _ in range(2))
    return make_finalist(number, trial.number, values, test, candidate=trial.candidate, cost=trial.cost)
