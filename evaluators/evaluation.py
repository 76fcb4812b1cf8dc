"""What the orchestration sees of an evaluator: one candidate in, Scores out, by rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from calibration.spec import CalibrationSpec
from evaluators.score import Score
from evaluators.spec import ModelSpec, SyntheticSpec, TrainingSpec
from search_space.candidate import Candidate

STATE_FILE = "state.safetensors"
PREDICTIONS_FILE = "predictions.safetensors"
CALIBRATION_FILE = "calibration.json"
SETS_FILE = "conformal.json"
TEST_FILE = "test.safetensors"
"""What a run leaves in its folder; the conformal sets are an export's."""

PAUSED_FILE = "paused.safetensors"
"""What a run that is to go on later leaves there."""

PREFIX_FOLDER = "prefix"
"""Where the evaluators of a study keep states of the frozen prefix, in the folder of its tokens."""

WEIGHTS_FOLDER = "weights"
"""Where they share the backbone's weights in the type that they are used in, beside those states."""


class Run(Protocol):
    """One candidate in training. It keeps its state between rungs and is dropped when it ends."""

    def advance(self, step: int) -> Score:
        """Train up to `step` and return the score on the validation split.

        Raises:
            EvaluationError: Training diverged, or ran out of memory.
        """

    def pause(self, folder: Path) -> None:
        """Write all that training goes on from after a rung that was not the last, whole or not at all.

        Raises:
            EvaluationError: Memory ran out.
        """

    def resume(self, folder: Path) -> bool:
        """Before the first step, go on from what `pause` left there, bit for bit as if nothing had come between.

        Returns:
            Whether it was there, whole, and is this candidate's, of this seed and accumulation. Where it is not, the
            run is as it was: training begins anew.

        Raises:
            EvaluationError: Memory ran out.
        """

    def save(self, folder: Path) -> None:
        """Write the trained state, its logits and its calibrator.

        Raises:
            EvaluationError: Memory ran out.
        """

    def test(self, folder: Path | None = None) -> Score:
        """Return the score on the test split. Called once, for finalists.

        Args:
            folder: Where to leave what it and its variants say of the test split.

        Raises:
            EvaluationError: The logits are not finite, or memory ran out.
        """


class Evaluator(Protocol):
    """Trains candidates. It is built once per process and holds what all of them share."""

    def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> Run:
        """Begin the training of a candidate.

        Args:
            candidate: What is trained.
            seed: Of its training.
            accumulation: Parts that its steps are divided into; as the study's spec says when None.

        Raises:
            UnsupportedError: The model cannot carry it.
        """

    def crew(self, runs: Sequence[Run]) -> Crew:
        """Put together runs that it started, to be trained in one forward pass as far as that is faster."""


class Crew(Protocol):
    """Runs that are brought from rung to rung in one forward pass of the backbone, as far as that is faster.

    Attributes:
        gain: How much longer they take one after another, as measured, and 1 where they cannot go together; None while
            that is not known.
    """

    gain: float | None

    def train(self, step: int) -> None:
        """Train up to `step` those that go together, where that is worth it.

        What is left of a run, or all of it, is done by its own `advance`; so is the failure of one that diverged.

        Raises:
            EvaluationError: Memory ran out; the runs are of no use any more.
        """

    def drop(self, run: Run) -> None:
        """Let a run go: stopped early, or failed."""


@dataclass(frozen=True)
class EvaluatorSpec:
    """All that an evaluator needs, as it crosses to another process.

    Attributes:
        model: The backbone.
        training: How candidates are trained.
        calibration: How probabilities are calibrated.
        tokens: Folder of the study's tokens.
        steps: Optimiser steps of full training.
        cpus: Cores that a trial may use.
        synthetic: Set for the closed-form evaluator.
        rung_rows: Examples of validation that rungs before the last look at; all of them when None.
        rung_latency: Whether a candidate's latency is measured at its first rung too: training does not change it.
    """

    model: ModelSpec
    training: TrainingSpec
    calibration: CalibrationSpec
    tokens: str
    steps: int
    cpus: float = 1.0
    synthetic: SyntheticSpec | None = None
    rung_rows: int | None = None
    rung_latency: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        parts = {name: getattr(self, name).model_dump(mode="json") for name in ("model", "training", "calibration")}
        synthetic = self.synthetic.model_dump(mode="json") if self.synthetic else None
        plain = {name: getattr(self, name) for name in ("tokens", "steps", "cpus", "rung_rows", "rung_latency")}
        return {**parts, **plain, "synthetic": synthetic}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvaluatorSpec:
        """Read what `to_json` wrote."""
        return cls(
            model=ModelSpec.model_validate(data["model"]),
            training=TrainingSpec.model_validate(data["training"]),
            calibration=CalibrationSpec.model_validate(data["calibration"]),
            tokens=data["tokens"],
            steps=data["steps"],
            cpus=data["cpus"],
            synthetic=SyntheticSpec.model_validate(data["synthetic"]) if data["synthetic"] else None,
            rung_rows=data["rung_rows"],
            rung_latency=data["rung_latency"],
        )


def build_evaluator(spec: EvaluatorSpec) -> Evaluator:
    """Build the evaluator that a spec asks for, importing only what that one needs."""
    if spec.synthetic is not None:
        from evaluators.synthetic import SyntheticEvaluator

        return SyntheticEvaluator(spec)
    from evaluators.trained import TrainedEvaluator

    return TrainedEvaluator(spec)
