"""Where the time of a trial goes: candidates trained for a few steps, with a clock beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from evaluators.clock import IN_STEPS, PHASES, Clock
from evaluators.evaluation import EvaluatorSpec
from evaluators.trained import TrainedEvaluator
from search_space.candidate import Candidate
from search_space.errors import ParetuneError
from search_space.notation import write

_WARM_UP = 2


@dataclass(frozen=True)
class TrialProfile:
    """Where the time of one candidate goes.

    Attributes:
        candidate: What was trained.
        measured: Seconds by phase, as they were spent.
        whole: Seconds by phase of a trial that is trained in full and scored at every rung. Filling the frozen prefix
            counts as measured, for the study pays it once.
        stored_layers: Layers that start from stored states.
        why_whole: Why none do, or empty.
        failure: Why it could not be trained, or empty.
    """

    candidate: Candidate
    measured: dict[str, float]
    whole: dict[str, float]
    stored_layers: int
    why_whole: str
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        return {**self.__dict__, "candidate": write(self.candidate)}


@dataclass(frozen=True)
class Profile:
    """Where the time of a study's trials goes.

    Attributes:
        load: Seconds to load the backbone and the tokens, once for each process.
        steps: Steps that were trained.
        full_steps: Steps of full training.
        rungs: How often a full trial is scored.
        padding: Share of padded tokens that are padding, for training, for evaluation, and as it would be if every
            example were padded to the longest.
        trials: One for each candidate.
    """

    load: float
    steps: int
    full_steps: int
    rungs: int
    padding: dict[str, float]
    trials: tuple[TrialProfile, ...]

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        return {**self.__dict__, "trials": [one.to_json() for one in self.trials]}


def profile(
    spec: EvaluatorSpec,
    candidates: Sequence[Candidate],
    seed: int,
    steps: int,
    rungs: int,
    parts: Mapping[Candidate, int | None] = MappingProxyType({}),
) -> Profile:
    """Train candidates for a few steps and say where the time went.

    Args:
        spec: What a study's actors build.
        candidates: At least one.
        seed: Seed of their training.
        steps: Steps of each; at most those of full training are done.
        rungs: How often a full trial is scored.
        parts: Parts that the steps of a candidate are divided into; as the spec says of those that are not in it.
    """
    few = replace(spec, steps=min(steps, spec.steps))
    began = time.perf_counter()
    evaluator = TrainedEvaluator(few)
    load = time.perf_counter() - began
    _warm_up(evaluator, candidates, seed, parts)
    trials = tuple(_trial(evaluator, one, seed, spec.steps, rungs, parts.get(one)) for one in candidates)
    return Profile(load, few.steps, spec.steps, rungs, _padding(evaluator, seed), trials)


def _warm_up(
    evaluator: TrainedEvaluator, candidates: Sequence[Candidate], seed: int, parts: Mapping[Candidate, int | None]
) -> None:
    """Train a few steps that nobody counts: what happens once in a process is no candidate's."""
    for candidate in candidates:
        try:
            evaluator.start(candidate, seed, parts.get(candidate)).train(_WARM_UP)
        except ParetuneError:
            continue
        return


def _trial(
    evaluator: TrainedEvaluator, candidate: Candidate, seed: int, full: int, rungs: int, parts: int | None
) -> TrialProfile:
    cuda = evaluator.backbone.device.type == "cuda"
    clock = evaluator.clock = Clock(torch.cuda.synchronize if cuda else lambda: None)
    evaluator.prefix.clock = clock
    began = time.perf_counter()
    try:
        run = evaluator.start(candidate, seed, parts)
        run.advance(evaluator.spec.steps)
    except ParetuneError as error:
        return TrialProfile(candidate, {}, {}, 0, "", str(error))
    total = time.perf_counter() - began
    measured: dict[str, float] = {phase: clock.seconds[phase] for phase in PHASES}
    measured["overhead"] = total - sum(measured.values())
    times = {str(phase): full / evaluator.spec.steps for phase in IN_STEPS}
    times["evaluation"] = 1.0 + (rungs - 1) * len(evaluator.rung_rows) / len(evaluator.tokens["validation"].ids)
    whole = {phase: seconds * times.get(phase, 1.0) for phase, seconds in measured.items()}
    return TrialProfile(candidate, measured, whole, run.forward.depth, run.forward.why_whole)


def _padding(evaluator: TrainedEvaluator, seed: int) -> dict[str, float]:
    training = evaluator.spec.training
    train, validation = evaluator.tokens["train"], evaluator.tokens["validation"]
    return {
        "training": train.wasted(train.first_pass(training.batch_size, seed)),
        "evaluation": validation.wasted(validation.by_length(training.evaluation_batch_size)),
        "to_the_longest": train.wasted([list(range(len(train.ids)))]),
    }
