"""The evaluator that trains: a backbone loaded once, candidates attached to copies of it, trained by rungs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.calibrators import held_out_log_probabilities
from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach, beside_head
from evaluators.backbone import checkpoint_activations, load
from evaluators.calibrated import Calibrated, calibrate
from evaluators.clock import Clock
from evaluators.deployed import deployed_after
from evaluators.energy import meter_if_any
from evaluators.evaluation import (
    CALIBRATION_FILE,
    PAUSED_FILE,
    PREDICTIONS_FILE,
    PREFIX_FOLDER,
    STATE_FILE,
    WEIGHTS_FOLDER,
    Crew,
    EvaluatorSpec,
    Run,
)
from evaluators.hook import Schooling
from evaluators.hooks import hooks_of
from evaluators.measurement import (
    calibrated_quality,
    held_out_quality,
    latency_ms,
    predict_logits,
    quality,
    subgroup_quality,
)
from evaluators.memory import measure_peak_bytes
from evaluators.optimisation import build_optimiser, build_schedule, loss_of, loss_of_recipe
from evaluators.out_of_memory import out_of_memory_told
from evaluators.pausing import go_on, paused
from evaluators.prefix_cache import Portion, PrefixCache
from evaluators.score import Score, Split
from evaluators.subset import errors_by_task, some_rows
from evaluators.tasks import by_task
from evaluators.tokens import Batch, TokenFolder, Tokens
from evaluators.variants import Bench, FinalistLogits, make_variants
from search_space.candidate import Candidate
from search_space.errors import EvaluationError
from search_space.files import atomic_write

_FIRST_LOOK = 64
"""Examples that a method may look at before it trains."""


class TrainedEvaluator:
    """Holds the frozen backbone and the tokens that all candidates of a process share."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        self.spec = spec
        torch.set_num_threads(max(1, round(spec.cpus)))
        self.folder = TokenFolder.open(Path(spec.tokens))
        tasks, shared = max(1, len(self.folder.tasks)), self.folder.folder / WEIGHTS_FOLDER
        self.backbone = load(spec.model, len(self.folder.classes), tasks, shared)
        self.anatomy = anatomy_of(self.backbone.model)
        self.tokens = {role: self.folder.read(role) for role in ("train", "validation", "calibration")}
        validation = self.tokens["validation"].labels
        self.rung_rows = some_rows(validation, spec.rung_rows or len(validation))
        about = f"{spec.model.model_dump_json()}|{self.folder.sha256}|{spec.training.max_length}"
        where, limit = self.folder.folder / PREFIX_FOLDER, spec.training.prefix_cache
        self.clock = Clock()
        self.meter = meter_if_any(self.backbone.device)
        self.prefix = PrefixCache(self.backbone, self.anatomy, self.tokens, where, about, limit, self.clock)

    def start(self, candidate: Candidate, seed: int, accumulation: int | None = None) -> TrainedRun:
        """Attach a candidate and make its optimiser. Raises UnsupportedError, or EvaluationError without memory."""
        given = self.spec.training.accumulate
        parts = accumulation or (1 if given == "auto" else given)
        with self.clock.phase("attach"), out_of_memory_told(0):
            return TrainedRun(self, attach(self.backbone.model, self.anatomy, candidate, seed), seed, parts)

    def crew(self, runs: Sequence[Run]) -> Crew:
        """Put together runs that are trained in one forward pass, where they go together and that is faster."""
        from evaluators.packing import PackedCrew  # which knows runs

        return PackedCrew([run for run in runs if isinstance(run, TrainedRun)])

    def portion(self, role: str, tokens: Tokens) -> Portion:
        """Return the examples of a role, in the groups in which they are evaluated."""
        size = self.spec.training.evaluation_batch_size
        return Portion(f"{role}-{size}", tokens, tokens.by_length(size))


class TrainedRun:
    """One candidate in training."""

    def __init__(self, evaluator: TrainedEvaluator, attached: Attached, seed: int, accumulation: int = 1) -> None:
        spec = evaluator.spec
        self.evaluator = evaluator
        self.clock = evaluator.clock
        self.hooks = hooks_of(attached)
        self.share = attached.candidate.recipe.training_share
        self.attached = self.hooks.begin(attached, self._schooling(evaluator, seed))
        if spec.training.gradient_checkpointing:
            checkpoint_activations(self.attached.model)
        self.seed = seed
        self.step = 0
        self.fidelity = 0.0
        self.optimiser = build_optimiser(self.attached)
        self.schedule = build_schedule(self.optimiser, self.own_steps(spec.steps), spec.training.warmup)
        self.forward = evaluator.prefix.forward_of(self.attached.model)
        tokens, size = evaluator.tokens["train"], spec.training.batch_size
        self.order = tokens.shuffled(size, seed)
        self.at_once = -(-min(size, len(tokens.ids)) // accumulation)
        self.portion = Portion(f"train-{size}-{seed}", tokens, tokens.first_pass(size, seed))
        devices = ("cpu", *(("cuda",) if evaluator.backbone.device.type == "cuda" else ()))
        self.random = {name: torch.Generator(name).manual_seed(seed).get_state() for name in devices}
        self.step_seconds: list[float] = []
        self.joules = 0.0
        self.latency: dict[str, float] = {}
        self.logits: dict[str, NDArray[np.float64]] = {}
        self.calibrated: Calibrated | None = None

    def advance(self, step: int) -> Score:
        """Train up to the candidate's share of `step`, then score on validation. Raises EvaluationError."""
        with out_of_memory_told(self.step):
            self.train(self.own_steps(step))
            self.fidelity = min(1.0, step / self.evaluator.spec.steps)
            with self.clock.phase("evaluation"):
                values, errors = self._look()
            if self.fidelity >= 1.0:
                with self.clock.phase("measurement"):
                    values |= self._measure()
            elif self.evaluator.spec.rung_latency:
                with self.clock.phase("measurement"):
                    self.latency = self.latency or self._latency()
                    values |= self.latency
        return replace(self._score(values, "validation"), errors=errors)

    def pause(self, folder: Path) -> None:
        """Write all that training goes on from after a rung that was not the last.

        Raises:
            EvaluationError: Memory ran out.
        """
        with out_of_memory_told(self.step):
            atomic_write(folder / PAUSED_FILE, paused(self))

    def resume(self, folder: Path) -> bool:
        """Go on from what `pause` left, before the first step. Returns whether that was there and is this run's.

        Raises:
            EvaluationError: Memory ran out.
        """
        with out_of_memory_told(self.step):
            return go_on(self, folder / PAUSED_FILE)

    def save(self, folder: Path) -> None:
        """Write the state, the logits of validation and calibration, and the calibrator, each file whole.

        Raises:
            EvaluationError: Memory ran out.
        """
        with out_of_memory_told(self.step):
            self._save(folder)

    def _save(self, folder: Path) -> None:
        atomic_write(folder / STATE_FILE, safetensors.torch.save(self.saved))
        tokens = {role: self.evaluator.tokens[role] for role in self.logits}
        arrays = {f"{role}_logits": logits for role, logits in self.logits.items()}
        about = {f"{role}_labels": one.labels for role, one in tokens.items()}
        about |= {f"{role}_groups": one.groups for role, one in tokens.items() if one.groups is not None}
        if self.calibrated is not None:
            arrays["validation_calibrated"] = self.calibrated.validation
        tensors = {name: torch.from_numpy(one) for name, one in (*arrays.items(), *about.items())}
        atomic_write(folder / PREDICTIONS_FILE, safetensors.torch.save(tensors))
        if self.calibrated is not None:
            atomic_write(folder / CALIBRATION_FILE, json.dumps(self.calibrated.calibrator.to_json(), indent=1))

    def test(self, folder: Path | None = None) -> Score:
        """Score on the test split, with the calibrator that was fitted without it; leave logits in the folder.

        Raises:
            EvaluationError: The logits are not finite, or memory ran out.
        """
        with out_of_memory_told(self.step):
            return self._test(folder)

    def _test(self, folder: Path | None) -> Score:
        self.attached.load(self.saved, self.evaluator.backbone.storages)
        tokens = self.evaluator.folder.read("test")
        logits = self.predict("test", tokens)
        spec = self.evaluator.spec.calibration
        tasks, after = tokens.tasks, None
        values = by_task(tasks, partial(quality, spec=spec), tokens.labels, logits, groups=tokens.groups)
        if self.calibrated is not None:
            after = held_out_log_probabilities(self.calibrated.calibrator, logits)
            values |= by_task(tasks, partial(held_out_quality, spec=spec), tokens.labels, logits, after)
        values |= subgroup_quality(logits, tokens.labels, tokens.subgroups, spec, after, tokens.groups)
        if folder is not None:
            FinalistLogits(logits, tokens.labels, *make_variants(self._bench(tokens), spec)).save(folder)
        return self._score(values, "test")

    def _bench(self, test: Tokens) -> Bench:
        tokens, folder = self.evaluator.tokens, self.evaluator.folder
        roles = {"validation": tokens["validation"], "calibration": tokens["calibration"], "test": test}
        size, device = self.evaluator.spec.training.evaluation_batch_size, self.evaluator.backbone.device
        return Bench(self.attached, roles, tokens["train"], len(folder.classes), size, device, self.seed)

    def _score(self, values: dict[str, float], split: Split) -> Score:
        sizes = {"trainable_params": self.attached.trainable_params, "head_params": self.attached.head_params}
        return Score(values | {k: float(v) for k, v in sizes.items()}, self.step, self.fidelity, split, self.seed)

    def own_steps(self, step: int) -> int:
        """Return the candidate's own steps at a step of the study: fewer where its recipe trains it for less."""
        return max(1, round(self.share * step))

    def train(self, until: int) -> None:
        """Train up to a step of the candidate's own. Raises EvaluationError."""
        self.attached.model.train()
        self.spent()  # what the device did between is not the candidate's
        with self._own_random():
            while self.step < until:
                started, filling = time.perf_counter(), self.clock.seconds["prefix"]
                self._step(next(self.order), self.forward)
                filling = self.clock.seconds["prefix"] - filling  # paid once, by whoever comes first
                self.note_step(time.perf_counter() - started - filling, self.spent())

    def note_step(self, seconds: float, joules: float) -> None:
        """Take note that a step was made, and what it took."""
        self.schedule.step()
        self.step += 1
        self.step_seconds.append(seconds)
        self.joules += joules

    def spent(self) -> float:
        """Return the joules since the call before; 0 where there is no meter."""
        return self.evaluator.meter.spent() if self.evaluator.meter else 0.0

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Draw from this run's own random state, and leave the process's as it was."""
        on_cuda = "cuda" in self.random
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_cuda else []):
            torch.set_rng_state(self.random["cpu"])
            if on_cuda:
                torch.cuda.set_rng_state(self.random["cuda"])
            yield
            self.random["cpu"] = torch.get_rng_state()
            if on_cuda:
                self.random["cuda"] = torch.cuda.get_rng_state()

    def _step(self, indices: list[int], forward: Callable[[Portion, list[int], Batch], Tensor]) -> None:
        """Go one step down the mean loss of some examples: part by part where steps are divided, the gradients added.

        Examples of a batch stand by length, so that parts have less padding. Mixup pairs examples of one part.
        """
        for start in range(0, len(indices), self.at_once):
            part = indices[start : start + self.at_once]
            with self.clock.phase("tokens"):
                batch = self.portion.tokens.batch(part, self.evaluator.backbone.device)
            with self.clock.phase("forward"):
                logits = forward(self.portion, part, batch)
                loss = loss_of_recipe(batch.own(logits), batch.labels, self.attached.candidate.recipe)
                loss = loss * (len(part) / len(indices))
                loss = self.hooks.penalised(loss) if start == 0 else loss
            with self.clock.phase("backward"):
                loss.backward()
                if start + self.at_once < len(indices):
                    self.optimiser.gather()
        self.descend()

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a whole step on logits that were computed elsewhere."""
        with self._own_random():
            return self.hooks.penalised(loss_of_recipe(logits, labels, self.attached.candidate.recipe))

    def descend(self) -> None:
        """Go one step down the gradients that are there. Raises EvaluationError where they are not finite."""
        with self.clock.phase("optimiser"):
            limit = self.evaluator.spec.training.max_grad_norm
            norm = self.optimiser.descend(limit, lambda: self.hooks.after_step(self.step + 1))
        if not torch.isfinite(norm):
            raise EvaluationError("diverged", f"the gradient is not finite at step {self.step + 1}")

    def _schooling(self, evaluator: TrainedEvaluator, seed: int) -> Schooling:
        """Offer a few examples one by one, as an estimate of the Fisher information wants them."""
        tokens = evaluator.tokens["train"]
        order = tokens.shuffled(1, seed)
        examples = min(_FIRST_LOOK, len(tokens.ids))
        batches = (tokens.batch(next(order), evaluator.backbone.device) for _ in range(examples))
        return Schooling(self.own_steps(evaluator.spec.steps), batches, _loss_on)

    def predict(self, role: str, tokens: Tokens, rows: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return logits of shape [examples, classes], in the order of the examples: of some rows, or of all."""
        self.attached.model.eval()
        classes, size = len(self.evaluator.folder.classes), self.evaluator.spec.training.evaluation_batch_size
        forward = partial(self.forward, self.evaluator.portion(role, tokens))
        logits = predict_logits(forward, tokens, classes, size, self.evaluator.backbone.device, rows)
        finite = np.isfinite(logits)
        if not (finite | np.isneginf(logits) if tokens.tasks else finite).all():
            raise EvaluationError("diverged", f"the logits are not finite at step {self.step}")
        return logits

    def _validate(self) -> dict[str, float]:
        tokens = self.evaluator.tokens["validation"]
        self.logits["validation"] = self.predict("validation", tokens)
        return self._quality(self.logits["validation"], tokens, np.arange(len(tokens.ids)))

    def _quality(self, logits: NDArray[np.float64], tokens: Tokens, rows: NDArray[np.int64]) -> dict[str, float]:
        """Return the quality of the logits of some rows."""
        spec, tasks = self.evaluator.spec.calibration, self.evaluator.folder.tasks
        labels = tokens.labels[rows]
        subgroups = None if tokens.subgroups is None else tokens.subgroups[rows]
        groups = None if tokens.groups is None else tokens.groups[rows]
        values = by_task(tasks, partial(quality, spec=spec), labels, logits, groups=groups)
        return values | subgroup_quality(logits, labels, subgroups, spec, groups=groups)

    def _look(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return quality on validation, and its standard errors where a rung looks at some rows only."""
        tokens, spec = self.evaluator.tokens["validation"], self.evaluator.spec.calibration
        rows = self.evaluator.rung_rows
        if self.fidelity >= 1.0:
            return self._validate() | self._calibrate(), {}
        if len(rows) == len(tokens.ids):
            return self._validate(), {}
        logits = self.predict("validation", tokens, rows)
        errors = errors_by_task(tokens.tasks, logits, tokens.labels[rows], spec, tokens.labels)
        return self._quality(logits, tokens, rows), errors

    def _calibrate(self) -> dict[str, float]:
        """Fit the calibrator, and score validation with it or with others like it."""
        tokens, spec = self.evaluator.tokens, self.evaluator.spec.calibration
        self.logits["calibration"] = self.predict("calibration", tokens["calibration"])
        tasks, labels = tokens["validation"].tasks, {role: tokens[role].labels for role in self.logits}
        groups = {role: one for role in self.logits if (one := tokens[role].groups) is not None}
        self.calibrated = calibrate(self.logits, labels, spec, tasks, groups)
        if self.calibrated is None:
            return {}
        measure = partial(calibrated_quality, spec=spec)
        return by_task(tasks, measure, labels["validation"], self.logits["validation"], self.calibrated.validation)

    def _measure(self) -> dict[str, float]:
        """Measure what needs the end of training: bytes, memory, times. The state is kept before, for it changes."""
        self.saved = self.attached.state(self.evaluator.backbone.storages)
        beside = beside_head(self.saved, self.evaluator.anatomy.head)
        tokens = self.evaluator.tokens["train"]
        device = self.evaluator.backbone.device
        values = {
            "checkpoint_bytes": float(len(safetensors.torch.save(self.saved))),
            "deployed_params": float(deployed_after(self.attached.candidate, beside)),
            "training_seconds": sum(self.step_seconds),
            "train_step_ms": 1e3 * median(self.step_seconds),
            **({"training_joules": self.joules} if self.evaluator.meter else {}),
            **self._latency(),
        }
        self.attached.model.train()
        longest = tokens.by_length(self.evaluator.spec.training.batch_size)[0]
        whole = partial(self._step, longest, lambda _portion, _part, batch: self.forward.whole(batch))
        peak = measure_peak_bytes(self.attached.model, self.optimiser.tensors, whole, device)  # nothing is stored
        return values | {"peak_memory_bytes": float(peak)}

    def _latency(self) -> dict[str, float]:
        tokens, device = self.evaluator.tokens["train"], self.evaluator.backbone.device
        return {"latency_ms": latency_ms(self.attached.model, tokens, device)}


def _loss_on(model: nn.Module, batch: Batch) -> Tensor:
    return loss_of(batch.own(model(**batch.inputs).logits), batch.labels, 0.0)
