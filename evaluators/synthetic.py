"""A closed-form evaluator: trains nothing, answers at once, and fails where it is told to.

Accuracy rises with the logarithm of the size, has a best learning rate for each method, and nears its end value as
training goes on. Only for trying out the orchestration: its numbers say nothing about real methods.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import safetensors.numpy
from safetensors import SafetensorError, safe_open

from evaluators.evaluation import PAUSED_FILE, EvaluatorSpec, Run
from evaluators.score import Cost, Score, Split
from search_space.candidate import Candidate, Part
from search_space.errors import EvaluationError
from search_space.files import atomic_write
from search_space.placement import PROJECTIONS, Anatomy, Site, SiteKind
from search_space.registry import method


class SyntheticEvaluator:
    """Scores candidates by a formula."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        assert spec.synthetic is not None
        self.spec = spec
        self.synthetic = spec.synthetic

    def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> SyntheticRun:
        """Begin the pretended training of a candidate."""
        return SyntheticRun(self, candidate, seed)

    def crew(self, runs: Sequence[Run]) -> SyntheticCrew:
        """Leave every run to its own: there is no backbone."""
        return SyntheticCrew()


class SyntheticCrew:
    """Runs that share nothing."""

    gain: float | None = None

    def train(self, step: int) -> None:
        """Train nothing."""

    def drop(self, run: Run) -> None:
        """Take no note."""


class SyntheticRun:
    """One candidate in pretended training."""

    def __init__(self, evaluator: SyntheticEvaluator, candidate: Candidate, seed: int) -> None:
        self.evaluator = evaluator
        self.candidate = candidate
        self.seed = seed
        self.step = 0

    def advance(self, step: int) -> Score:
        """Pretend to train up to `step`."""
        self._fail_if_told()
        time.sleep((step - self.step) * self.evaluator.synthetic.step_seconds)
        self.step = step
        return self._score("validation")

    def pause(self, folder: Path) -> None:
        """Write the step."""
        about = {"of": self._identity, "step": str(self.step)}
        atomic_write(folder / PAUSED_FILE, safetensors.numpy.save({}, about))

    def resume(self, folder: Path) -> bool:
        """Go on from the step that `pause` wrote, if it was this candidate's of this seed."""
        try:
            with safe_open(folder / PAUSED_FILE, "numpy") as file:
                about = file.metadata() or {}
        except (OSError, SafetensorError):
            return False
        if about.get("of") != self._identity:
            return False
        self.step = int(about["step"])
        return True

    @property
    def _identity(self) -> str:
        return f"{self.candidate.sha256}/{self.seed}"

    def save(self, folder: Path) -> None:
        """Keep nothing."""

    def test(self, folder: Path | None = None) -> Score:
        """Score as on validation, a little lower."""
        return self._score("test")

    def _score(self, split: Split) -> Score:
        fidelity = self.step / self.evaluator.spec.steps
        accuracy = _end_accuracy(self.candidate) * (1 - 0.6 * math.exp(-4 * fidelity))
        accuracy += 0.01 * _noise(self.candidate, self.seed, split) - (0.01 if split == "test" else 0)
        params = synthetic_params(self.candidate)
        values = {"accuracy": accuracy, "nll": -math.log(accuracy), "calibrated_nll": -math.log(accuracy)}
        values |= {"calibrated_ece": 0.02 + 0.04 * (1 - accuracy)} if fidelity >= 1 else {}
        values |= {"ece": 0.05 * fidelity, "trainable_params": float(params), "head_params": 100.0}
        return Score(values, self.step, fidelity, split, self.seed)

    def _fail_if_told(self) -> None:
        faults = self.evaluator.synthetic.faults
        fault = next((faults[part.method] for part in self.candidate.parts if part.method in faults), None)
        if fault == "raise":
            raise RuntimeError("told to raise")
        if fault == "nan":
            raise EvaluationError("diverged", "told to diverge")
        if fault == "oom":
            raise MemoryError("told to run out of memory")
        if fault == "exit":
            os._exit(137)
        if fault == "hang":
            time.sleep(3600)


class SyntheticCoster:
    """Costs of a pretended model of six layers."""

    def __init__(self, tasks: int = 1) -> None:
        names = [word for word in PROJECTIONS if word not in ("mlp.gate", "embeddings")]
        sites = tuple(_site(name, layer) for layer in range(6) for name in names)
        self.anatomy = Anatomy(
            "synthetic", hidden_size=64, n_layers=6, sites=sites, blocks=(), head=(), tasks=tasks
        )  # fmt: skip
        self.parameters = 1_000_000

    def cost(self, candidate: Candidate, within: float | None = None) -> Cost:
        """Return the pretended size, and memory that grows with it."""
        params = self.count(candidate)
        return Cost(params, 100, 2**20 + 16 * params)

    def count(self, candidate: Candidate) -> int:
        """Return the pretended size."""
        return synthetic_params(candidate)


def _site(projection: str, layer: int) -> Site:
    kind: SiteKind = "norm" if projection == "norm" else "linear"
    return Site(f"layers.{layer}.{projection}", kind, (projection,), layer, "", 64, 64, has_bias=True)


def synthetic_params(candidate: Candidate) -> int:
    """Return a size that grows with the knobs and the layers."""
    total = 0
    for part in candidate.parts:
        size = math.prod(max(1, value) for _, value in part.knobs if isinstance(value, int))
        layers = len(part.placement.layers.indices(6)) if method(part.method).placement.layers else 6
        total += 64 * layers * max(1, len(part.placement.projections)) * size
    return total


def _end_accuracy(candidate: Candidate) -> float:
    size = min(1.0, math.log10(synthetic_params(candidate)) / 7)
    misses = [_miss(part, rate) for part, rate in zip(candidate.parts, candidate.recipe.learning_rates, strict=True)]
    return 0.5 + 0.4 * size * math.exp(-sum(misses) / len(misses))


def _miss(part: Part, rate: float) -> float:
    return math.log10(rate / method(part.method).learning_rate.default) ** 2


def _noise(candidate: Candidate, seed: int, split: str) -> float:
    digest = hashlib.sha256(f"{candidate.sha256}/{seed}/{split}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**31 - 1
