"""A made-up table: candidates of a pretended model, scored by a formula at three rungs."""

from __future__ import annotations

import math
from typing import Any

from evaluators.score import Cost
from evaluators.synthetic import SyntheticCoster, synthetic_params
from evaluators.tabulated import Header, Row, Table
from orchestrator.spec import StudySpec, parse
from search_space.candidate import Candidate
from search_space.knobs import RandomChooser
from search_space.registry import method
from search_space.space import Space, bind

RUNGS = (10, 30, 90)
METHODS: dict[str, Any] = {"lora": {"r": [1, 2, 4, 8, 16]}, "ia3": {}, "bitfit": {}, "serial_adapter": {}}


def spec_of(**given: Any) -> StudySpec:
    """A study of the table's space, with rungs that are the table's."""
    search = {"sampler": "tpe", "startup_trials": 5, "early_stopping": {"grace": 2}} | given.pop("search", {})
    data = {"name": "simulated", "model": "-", "task": "-", "synthetic": {}, "budgets": {"trials": 20}}
    space = {"methods": METHODS, "hybrids": ["lora + bitfit"]}
    return parse(data | {"space": space, "training": {"steps": RUNGS[-1]}, "search": search} | given)


def space_of(spec: StudySpec) -> Space:
    """The space on the pretended model."""
    return bind(spec.space, SyntheticCoster().anatomy)


def table_of(count: int = 60, seed: int = 0) -> Table:
    """Draw candidates and score them."""
    spec = spec_of()
    space, chooser = space_of(spec), RandomChooser(seed)
    rows: dict[tuple[str, int], Row] = {}
    while len(rows) < count:
        row = _row(space.draw(chooser))
        rows[row.key] = row
    header = Header(spec.to_json(), RUNGS, ("accuracy", "nll"), {"backbone_parameters": 1_000_000})
    return Table(header, rows)


def _row(candidate: Candidate) -> Row:
    quality = tuple((accuracy, -math.log(accuracy)) for accuracy in (_accuracy(candidate, step) for step in RUNGS))
    work = 100 + synthetic_params(candidate) % 50
    cost = Cost(synthetic_params(candidate), 100, 2**20, training_flops=1000 * work)
    return Row(candidate, 0, "wide", cost, quality, quality, {"train_step_ms": float(work), "latency_ms": 1.0})


def _accuracy(candidate: Candidate, step: int) -> float:
    best = [method(part.method).learning_rate.default for part in candidate.parts]
    misses = [
        math.log10(rate / wanted) ** 2 for rate, wanted in zip(candidate.recipe.learning_rates, best, strict=True)
    ]
    size = min(1.0, math.log10(synthetic_params(candidate)) / 7)
    end = 0.5 + 0.4 * size * math.exp(-sum(misses) / len(misses))
    return end * (1 - 0.6 * math.exp(-4 * step / RUNGS[-1]))
